"""What a step asks of every rank, and how evenly."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradopt_ds.matrices import ExchangeSettings
from gradopt_ds.ops import Oracle
from gradopt_ds.sharding import Layout, Plan, make_plan

Row = dict[str, int]


@dataclass(frozen=True)
class Shape:
    """The matrices of one shape.

    Attributes:
        rows: of each.
        columns: of each.
        local: how many lie whole on one rank.
        owner: how many are put together on one owner.
        gram: how many stay cut and share their Gram matrix.
    """

    rows: int
    columns: int
    local: int
    owner: int
    gram: int


def make_plans(layouts: Iterable[Layout], oracle: Oracle, settings: ExchangeSettings) -> list[Plan]:
    """Make the plans of the slices of one step, which share the load as they do on an engine."""
    plans: list[Plan] = []
    load: list[int] | None = None
    for layout in layouts:
        plan = make_plan(layout, oracle, settings, load)
        plans.append(plan)
        load = [a + b for a, b in zip(load or [0] * layout.world_size, plan.flops, strict=True)]
    return plans


def per_rank(plans: Sequence[Plan], bytes_per_element: int) -> list[Row]:
    """Return one row per rank.

    Args:
        plans: of one step; one on fewer ranks than others is that of every group of so many.
        bytes_per_element: of what travels.

    Returns:
        ``rank``; ``matrices`` that it applies the rule to, whole; ``flops`` of the oracle;
        ``sent``: bytes of pieces and updates, without the all-reduces of Gram matrices; ``peak``:
        most bytes of exchange and rule at a time, by the plan's bound.
    """
    ranks = _ranks(plans)
    # Neighbours have different experts: of four ranks, two of which share them, 0 and 2 are the
    # first and the second of a group.
    steps = [(plan, ranks // plan.layout.world_size, Counter(plan.owners)) for plan in plans]
    return [
        {
            "rank": rank,
            "matrices": sum(owned[rank // step] for _, step, owned in steps),
            "flops": sum(plan.flops[rank // step] for plan, step, _ in steps),
            "sent": sum(p.bytes_sent(rank // step, bytes_per_element) for p, step, _ in steps),
            "peak": max(plan.peak_bytes(rank // step) for plan, step, _ in steps),
        }
        for rank in range(ranks)
    ]


def _ranks(plans: Sequence[Plan]) -> int:
    return max(plan.layout.world_size for plan in plans)


def imbalance(rows: Sequence[Row]) -> float:
    """Return the busiest rank's FLOPs over the mean; 1 is even."""
    flops = [row["flops"] for row in rows]
    return max(flops) * len(flops) / sum(flops)


def by_shape(plans: Sequence[Plan]) -> list[Shape]:
    """Return which strategies the whole model's matrices of each shape got, largest first."""
    counts: Counter[tuple[int, int, str]] = Counter()
    for plan in plans:
        for matrix, strategy in zip(plan.layout.matrices, plan.strategies, strict=True):
            groups = _ranks(plans) // plan.layout.world_size
            counts[matrix.rows, matrix.columns, strategy] += groups
    shapes = sorted({key[:2] for key in counts}, key=lambda s: (-s[0] * s[1], s))
    return [
        Shape(m, n, **{way: counts[m, n, way] for way in ("local", "owner", "gram")})
        for m, n in shapes
    ]


def all_to_alls(plans: Sequence[Plan]) -> int:
    """Count the all-to-alls per step: there and back for every round."""
    return sum(2 * len(plan.rounds) for plan in plans)
