"""A plan on paper as tables and files."""

import statistics
from collections.abc import Sequence
from typing import Any

from gradopt_ds.experiments.common import provenance, tables
from gradopt_ds.experiments.common.tables import GFLOP, MB, Column, Table
from gradopt_ds.experiments.exchange_plan.ranks import Row, all_to_alls, by_shape, imbalance
from gradopt_ds.experiments.exchange_plan.settings import PlanSettings
from gradopt_ds.sharding import Plan

BUSIEST = 5
"""Ranks that the terminal shows one by one."""

RANK_COLUMNS = (
    Column("rank", "rank"),
    Column("matrices", "matrices owned", ".4g"),
    Column("flops", "oracle", ".4g", GFLOP),
    Column("sent", "sent", ".4g", MB),
    Column("peak", "peak workspace", ".4g", MB),
)
STAGE_COLUMNS = (
    Column("stage", "stage"),
    Column("matrices", "matrices"),
    Column("all_to_alls", "all-to-alls"),
    Column("flops", "oracle", ".4g", GFLOP),
    Column("most_flops", "oracle, busiest rank", ".4g", GFLOP),
    Column("sent", "sent", ".4g", MB),
    Column("most_sent", "sent, busiest rank", ".4g", MB),
)


def _count(number: int) -> str:
    return str(number or "")


SHAPE_COLUMNS = (
    Column("shape", "shape"),
    Column("local", "local", _count),
    Column("owner", "owner", _count),
    Column("gram", "gram", _count),
)


def shapes_table(plans: Sequence[Plan]) -> Table:
    """Tell which strategy the matrices of each shape got."""
    rows = [
        {
            "shape": f"{shape.rows} x {shape.columns}",
            "local": shape.local,
            "owner": shape.owner,
            "gram": shape.gram,
        }
        for shape in by_shape(plans)
    ]
    count = sum(shape.local + shape.owner + shape.gram for shape in by_shape(plans))
    return Table(SHAPE_COLUMNS, rows, f"{count} matrices")


def ranks_table(rows: Sequence[Row]) -> Table:
    """Show every rank."""
    return Table(RANK_COLUMNS, rows, f"per rank and step; imbalance {imbalance(rows):.3f}")


def stages_table(stages: Sequence[Row]) -> Table:
    """Show every pipeline stage, all its ranks together.

    Args:
        stages: as of :func:`gradopt_ds.experiments.exchange_plan.stages.per_stage`.
    """
    busiest = max(stages, key=lambda row: row["most_flops"])
    share = busiest["most_flops"] * len(stages) / sum(row["most_flops"] for row in stages)
    title = f"per stage; the busiest is stage {busiest['stage']}, {share:.3f} times the mean"
    return Table(STAGE_COLUMNS, stages, title)


def digest(ranks: Table) -> Table:
    """Show least, mean and most of all ranks, then the ranks with the most FLOPs.

    Args:
        ranks: as of :func:`ranks_table`.
    """
    rows: list[dict[str, Any]] = [
        {
            "rank": label,
            **{
                column.key: reduce([row[column.key] for row in ranks.rows])
                for column in RANK_COLUMNS[1:]
            },
        }
        for label, reduce in (("min", min), ("mean", statistics.mean), ("max", max))
    ]
    busiest = sorted(ranks.rows, key=lambda row: (-row["flops"], row["rank"]))[:BUSIEST]
    return Table(RANK_COLUMNS, [*rows, *busiest], ranks.title)


def summary(plans: Sequence[Plan]) -> str:
    """Put the collectives of a step in words."""
    gram = sum(plan.count("gram") for plan in plans)
    return (
        f"{len(plans)} slice(s) per step, {sum(len(plan.rounds) for plan in plans)} round(s), "
        f"{all_to_alls(plans)} all-to-alls"
        + (f", and the all-reduces of {gram} Gram matrices" if gram else "")
    )


def write(
    plans: Sequence[Plan], rows: Sequence[Row], stages: Sequence[Row], settings: PlanSettings
) -> None:
    """Write ``plan`` and ``shapes``, with several stages ``stages`` too, as tables and JSON."""
    facts = {
        "settings": settings.model_dump(mode="json"),
        "imbalance": imbalance(rows),
        "all_to_alls": all_to_alls(plans),
        "shapes": [vars(shape) for shape in by_shape(plans)],
        "stages": stages,
        "ranks": rows,
    }
    provenance.write_json(settings.output / "plan.json", facts)
    tables.write(ranks_table(rows), settings.output / "plan")
    tables.write(shapes_table(plans), settings.output / "shapes")
    if len(stages) > 1:
        tables.write(stages_table(stages), settings.output / "stages")
