"""Rows of bytes as tables and files."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from gradopt_ds.memory.estimate import Estimate

Row = dict[str, Any]
GIB = 2**30

ESTIMATED = {
    "optimizer": "optimizer",
    "weights": "weights",
    "masters": "masters",
    "state_matrix": "state, matrices",
    "state_aux": "state, rest",
    "gradients": "gradients",
    "step_gradients": "gradients in step",
    "buffers": "buffers",
    "communication": "communication",
    "workspace": "workspace",
    "activations": "activations",
    "total": "peak",
    "peak": "in",
    "host": "of it on host",
    "state_saved": "state saved",
    "state_saved_percent": "%",
    "total_saved": "peak saved",
    "total_saved_percent": "%",
}
MEASURED = {
    "optimizer": "optimizer",
    "rank": "rank",
    "category": "category",
    "estimated": "estimated",
    "measured": "measured",
    "difference_percent": "difference %",
}


def compared(estimates: Mapping[str, Estimate]) -> list[Row]:
    """One row per optimizer, bytes, with what it saves against the first."""
    against = next(iter(estimates.values()))
    rows = []
    for name, one in estimates.items():
        row: Row = {"optimizer": name, **vars(one)}
        for key, own, other in (
            ("state", one.state, against.state),
            ("total", one.total, against.total),
        ):
            row[f"{key}_saved"] = other - own
            row[f"{key}_saved_percent"] = 100 * (other - own) / other if other else None
        rows.append(row)
    return rows


def table(rows: Sequence[Row], columns: Mapping[str, str], title: str) -> Table:
    """For the terminal; bytes in GiB."""
    shown = Table(title=title)
    for index, heading in enumerate(columns.values()):
        shown.add_column(heading, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        shown.add_row(*(cell(row.get(key)) for key in columns))
    return shown


def markdown(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """The same as Markdown."""
    lines = [" | ".join(columns.values()), "|".join(["---"] * len(columns))]
    lines += [" | ".join(cell(row.get(key)) for key in columns) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def write(rows: Sequence[Row], columns: Mapping[str, str], told: Mapping[str, Any], path: Path,
          ) -> None:  # fmt: skip
    """Write ``path`` with the endings .json, .csv (bytes) and .md (GiB)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # `with_suffix` would take the "3b" of "1.3b" for one.
    files = {ending: path.with_name(f"{path.name}.{ending}") for ending in ("json", "csv", "md")}
    files["json"].write_text(json.dumps({**told, "rows": rows}, indent=2) + "\n")
    files["md"].write_text(markdown(rows, columns))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files["csv"].write_text(text.getvalue())


def cell(value: Any) -> str:
    """Bytes (integers from 1 KiB) in GiB, to three digits; percentages with one."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int) and abs(value) >= 1024:
        return f"{value / GIB:.3f}"
    return str(value)
