"""Rows of bytes as tables and files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.common import provenance, tables
from gradopt_ds.experiments.common.tables import Column, Table
from gradopt_ds.memory.estimate import Estimate

Row = dict[str, Any]
GIB = 2**30


def gib(size: int) -> str:
    """Write bytes in GiB."""
    return f"{size / GIB:.3f}" if size else "0"


ESTIMATED = (
    Column("optimizer", "optimizer", left=True),
    Column("weights", "weights", gib),
    Column("masters", "masters", gib),
    Column("state_matrix", "state, matrices", gib),
    Column("state_aux", "state, rest", gib),
    Column("gradients", "gradients", gib),
    Column("step_gradients", "gradients in step", gib),
    Column("buffers", "buffers", gib),
    Column("communication", "communication", gib),
    Column("workspace", "workspace", gib),
    Column("activations", "activations", gib),
    Column("total", "peak", gib),
    Column("peak", "in", left=True),
    Column("host", "of it on host", gib),
    Column("state_saved", "state saved", gib),
    Column("state_saved_percent", "%", ".2f"),
    Column("total_saved", "peak saved", gib),
    Column("total_saved_percent", "%", ".2f"),
)
MEASURED = (
    Column("optimizer", "optimizer", left=True),
    Column("rank", "rank"),
    Column("category", "category", left=True),
    Column("estimated", "estimated", gib),
    Column("measured", "measured", gib),
    Column("difference_percent", "difference %", ".2f"),
)


def paper_columns(sizes: Sequence[str]) -> list[Column]:
    """Describe the papers' table, one column per size of model."""
    first = Column("optimizer", "bf16 weights + state, GiB", left=True)
    return [first, *(Column(size, size, ".2f") for size in sizes)]


def compared(estimates: Mapping[str, Estimate]) -> list[Row]:
    """Make one row per optimizer, bytes, with what it saves against the first."""
    against = next(iter(estimates.values()))
    rows = []
    for name, estimate in estimates.items():
        row: Row = {"optimizer": name, **vars(estimate)}
        for key, own, other in (
            ("state", estimate.state, against.state),
            ("total", estimate.total, against.total),
        ):
            row[f"{key}_saved"] = other - own
            row[f"{key}_saved_percent"] = 100 * (other - own) / other if other else None
        rows.append(row)
    return rows


def write(table: Table, facts: Mapping[str, Any], path: Path) -> None:
    """Write ``path`` with the endings .json, .csv (bytes) and .md (GiB).

    Args:
        table: what to write.
        facts: what the JSON says beside the rows.
        path: without an ending.
    """
    json_path = path.with_name(f"{path.name}.json")
    provenance.write_json(json_path, {**facts, "rows": table.rows})
    tables.write(table, path)
