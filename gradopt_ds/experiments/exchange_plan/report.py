"""A plan on paper as tables and files."""

import csv
import io
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from gradopt_ds.experiments.exchange_plan.ranks import Row, Shape, all_to_alls, by_shape, imbalance
from gradopt_ds.experiments.exchange_plan.settings import PlanSettings
from gradopt_ds.sharding import Plan

BUSIEST = 5
"""Ranks that the terminal shows one by one."""

COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "matrices": ("matrices owned", "{:.4g}".format),
    "flops": ("oracle GFLOP", lambda x: f"{x / 1e9:.4g}"),
    "sent": ("bytes sent, MB", lambda x: f"{x / 1e6:.4g}"),
    "peak": ("peak workspace, MB", lambda x: f"{x / 1e6:.4g}"),
}


def shapes_table(plans: Sequence[Plan]) -> Table:
    """Which strategy the matrices of each shape got."""
    shown = Table(title=f"{sum(len(plan.layout.matrices) for plan in plans)} matrices")
    for heading in ("shape", "local", "owner", "gram"):
        shown.add_column(heading, justify="right")
    for shape in by_shape(plans):
        shown.add_row(*_shape_cells(shape))
    return shown


def ranks_table(rows: Sequence[Row]) -> Table:
    """Least, mean and most of all ranks, and the ranks with the most FLOPs."""
    shown = Table(title=f"per rank and step; imbalance {imbalance(rows):.3f}")
    for heading in ("rank", *(heading for heading, _ in COLUMNS.values())):
        shown.add_column(heading, justify="right")
    for label, of in (("min", min), ("mean", statistics.mean), ("max", max)):
        shown.add_row(label, *_cells({key: of([row[key] for row in rows]) for key in COLUMNS}))
    shown.add_section()
    for row in sorted(rows, key=lambda row: (-row["flops"], row["rank"]))[:BUSIEST]:
        shown.add_row(str(row["rank"]), *_cells(row))
    return shown


def summary(plans: Sequence[Plan]) -> str:
    """The collectives of a step, in words."""
    gram = sum(plan.count("gram") for plan in plans)
    return (
        f"{len(plans)} slice(s) per step, {sum(len(plan.rounds) for plan in plans)} round(s), "
        f"{all_to_alls(plans)} all-to-alls"
        + (f", and the all-reduces of {gram} Gram matrices" if gram else "")
    )


def write(plans: Sequence[Plan], rows: Sequence[Row], settings: PlanSettings) -> None:
    """Write ``plan.json`` and ``plan.csv`` into the output directory."""
    settings.output.mkdir(parents=True, exist_ok=True)
    told = {
        "settings": settings.model_dump(mode="json"),
        "imbalance": imbalance(rows),
        "all_to_alls": all_to_alls(plans),
        "shapes": [vars(shape) for shape in by_shape(plans)],
        "ranks": rows,
    }
    (settings.output / "plan.json").write_text(json.dumps(told, indent=2) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, ["rank", *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (settings.output / "plan.csv").write_text(text.getvalue())


def _cells(values: Any) -> list[str]:
    return [form(values[key]) for key, (_, form) in COLUMNS.items()]


def _shape_cells(shape: Shape) -> list[str]:
    ways = (shape.local, shape.owner, shape.gram)
    return [f"{shape.rows} x {shape.columns}", *(str(count or "") for count in ways)]
