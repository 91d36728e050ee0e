"""One description, four forms; every expected text is written by hand."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradopt_ds.experiments.common.tables import (
    MB,
    Column,
    Table,
    Unit,
    csv_text,
    markdown,
    show,
    terminal,
    two_digits,
    write,
)

TABLE = Table(
    (
        Column("name", "optimizer", left=True),
        Column("loss", "loss", ".2f"),
        Column("sent", "sent", ".1f", MB),
        Column("ranks", "ranks"),
        Column("flag", "of", lambda value: "yes" if value else "no"),
    ),
    [
        {"name": "AdamW", "loss": 3.14159, "sent": 2_500_000, "ranks": 2, "flag": True, "more": 0},
        {"name": "a|b, [bold]", "loss": None, "ranks": 16, "flag": False},
    ],
    "title",
)


def printed(renderable: Any) -> str:
    console = Console(width=200, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(renderable)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_markdown() -> None:
    assert markdown(TABLE) == (
        "| optimizer | loss | sent MB | ranks | of |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| AdamW | 3.14 | 2.5 | 2 | yes |\n"
        "| a\\|b, [bold] | - | - | 16 | no |\n"
    )


def test_csv_has_keys_base_units_and_every_digit() -> None:
    assert csv_text(TABLE) == (
        "name,loss,sent,ranks,flag\n"
        "AdamW,3.14159,2500000,2,True\n"
        '"a|b, [bold]",,,16,False\n'
    )  # fmt: skip
    assert [row["name"] for row in csv.DictReader(io.StringIO(csv_text(TABLE)))] == [
        "AdamW",
        "a|b, [bold]",
    ]


def test_the_terminal_shows_what_the_markdown_says() -> None:
    """Words to the left, numbers to the right, and no cell is taken for rich's markup."""
    lines = printed(terminal(TABLE)).splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [
        ["AdamW", "3.14", "2.5", "2", "yes"],
        ["a|b, [bold]", "-", "-", "16", "no"],
    ]
    assert "title" in lines[0]
    assert "│ AdamW       │ 3.14 │" in lines[4]


def test_emphasis_and_lines_are_of_the_rows_that_are_numbered() -> None:
    lines = printed(terminal(TABLE, bold=[1], line_below=[0])).splitlines()
    rows = [line for line in lines if "│" in line]
    assert ["\x1b[1m" in row for row in rows] == [False, True]
    assert lines[lines.index(rows[0]) + 1].startswith("├")


def test_a_pipe_gets_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich takes it for 80 columns, and would cut numbers to fit."""
    wide = Table([Column(str(i), f"heading {i}", ".6f") for i in range(12)], [{"3": 1 / 3}])
    show(wide)
    assert "heading 11" in (output := capsys.readouterr().out)
    assert "0.333333" in output and "…" not in output


def test_files_keep_the_dots_of_a_model_s_name(tmp_path: Path) -> None:
    write(TABLE, tmp_path / "new" / "llama_1.3b")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "llama_1.3b.csv",
        "llama_1.3b.md",
    }
    assert (tmp_path / "new/llama_1.3b.md").read_text() == markdown(TABLE)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (9.994, "9.99"), (-3.0, "-3.00"), (10.4, "10"), (1e6, "1000000")],
)
def test_two_digits(value: float, text: str) -> None:
    assert two_digits(value) == text


def test_a_unit_may_stand_alone() -> None:
    assert Column("flops", "", ".1f", Unit("GFLOP", 1e9)).title == "GFLOP"
    assert Column("flops", "", ".1f", Unit("GFLOP", 1e9)).cell({"flops": 2_640_000_000}) == "2.6"
