"""A table is described once and written as terminal output, Markdown and CSV.

JSON takes the rows as they are: see :mod:`gradopt_ds.experiments.common.provenance`.
"""

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import table as rich_table
from rich.console import Console
from rich.markup import escape

Row = Mapping[str, Any]
"""One value per column key, in base units (bytes, operations, seconds); other keys are ignored."""

MISSING = "-"
"""What people read where a row has no value. The CSV leaves the cell empty."""


@dataclass(frozen=True)
class Unit:
    """What people read a quantity in.

    Attributes:
        symbol: written after the heading.
        size: in base units; a value is divided by it.
    """

    symbol: str
    size: float


MB = Unit("MB", 1e6)
GFLOP = Unit("GFLOP", 1e9)
GFLOP_PER_SECOND = Unit("GFLOP/s", 1e9)


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: of the rows; the heading in the CSV.
        heading: for people.
        form: a format specification such as ``".2f"``, or a function from value to text.
        unit: people read the value in this unit; the CSV keeps base units.
        left: whether cells are aligned to the left, as words are; numbers are not.
    """

    key: str
    heading: str
    form: str | Callable[[Any], str] = ""
    unit: Unit | None = None
    left: bool = False

    @property
    def title(self) -> str:
        """The heading with the unit."""
        return self.heading if self.unit is None else f"{self.heading} {self.unit.symbol}".lstrip()

    def cell(self, row: Row) -> str:
        """Write the row's value for people."""
        value = row.get(self.key)
        if value is None:
            return MISSING
        if self.unit is not None:
            value = value / self.unit.size
        return self.form(value) if callable(self.form) else format(value, self.form)


@dataclass(frozen=True)
class Table:
    """Columns, rows, and a title for the terminal."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    title: str = ""


def two_digits(value: float) -> str:
    """Write two decimals below 10 and none above, for numbers of any size in one column."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def terminal(
    table: Table, bold: Collection[int] = (), line_below: Collection[int] = ()
) -> rich_table.Table:
    """Make the table that rich prints.

    Args:
        table: what to show.
        bold: numbers of the rows in bold type.
        line_below: numbers of the rows with a line below them.
    """
    result = rich_table.Table(title=escape(table.title) or None)
    for column in table.columns:
        justify: Any = "left" if column.left else "right"
        result.add_column(escape(column.title), justify=justify, no_wrap=column.left)
    for number, row in enumerate(table.rows):
        result.add_row(
            *(escape(column.cell(row)) for column in table.columns),
            style="bold" if number in bold else None,
            end_section=number in line_below,
        )
    return result


def show(table: Table, bold: Collection[int] = (), line_below: Collection[int] = ()) -> None:
    """Print the table as wide as it is: a pipe or a file would be taken for 80 columns.

    Args:
        table: what to print.
        bold: see :func:`terminal`.
        line_below: see :func:`terminal`.
    """
    printed = terminal(table, bold, line_below)
    width = Console(width=10_000).measure(printed).maximum
    Console(width=max(width, Console().width)).print(printed)


def markdown(table: Table) -> str:
    """Write the table, without its title, as Markdown."""
    lines = [
        [column.title for column in table.columns],
        ["---" if column.left else "---:" for column in table.columns],
        *([column.cell(row) for column in table.columns] for row in table.rows),
    ]
    return "".join(f"| {' | '.join(map(_cell_text, line))} |\n" for line in lines)


def csv_text(table: Table) -> str:
    """Write the rows with their keys, full precision and base units."""
    text = io.StringIO()
    keys = [column.key for column in table.columns]
    writer = csv.DictWriter(text, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return text.getvalue()


def write(table: Table, path: Path) -> None:
    """Write ``path`` with the endings ``.csv`` and ``.md``; make its directory if it is missing.

    Args:
        table: what to write.
        path: without an ending. It may hold dots, as the "1.3b" of a model's name does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.csv").write_text(csv_text(table))
    path.with_name(f"{path.name}.md").write_text(markdown(table))


def _cell_text(text: str) -> str:
    return text.replace("|", "\\|")
