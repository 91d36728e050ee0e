"""The plans of every pipeline stage, from a model on the meta device."""

from collections.abc import Sequence

from torch import nn

from gradopt_ds.experiments.exchange_plan.layouts import matrices_of, zero_layouts
from gradopt_ds.experiments.exchange_plan.ranks import Row, all_to_alls, make_plans, per_rank
from gradopt_ds.experiments.exchange_plan.settings import PlanSettings
from gradopt_ds.integration.parallel.experts_on_paper import on_one_rank
from gradopt_ds.integration.parallel.layout_on_paper import tensor_layout
from gradopt_ds.integration.parallel.stages_on_paper import cut_stages
from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.matrices import Block
from gradopt_ds.sharding import Layout, Matrix, Plan

Matrices = dict[Matrix, tuple[Block, ...]]


def plans_by_stage(model: nn.Module, settings: PlanSettings) -> list[list[Plan]]:
    """Make the plans of a step of every pipeline stage; none for a stage without matrices.

    Raises:
        ValueError: the model cannot be cut as the settings say.
    """
    stages = cut_stages(
        model,
        settings.tensor_parallel,
        settings.tensor_parallel_preset,
        settings.pipeline,
        settings.pipeline_partition,
    )
    own = on_one_rank(model, settings.expert_parallel)
    # Which rule a parameter gets depends on the whole model, so it is decided before it is cut.
    spread, dense = (matrices_of(own, settings.patterns, spread) for spread in (True, False))
    if settings.pipeline == 1:
        return [_plans(dense, spread, stages[0], settings)]
    return [
        _plans({m: dense[m] for m in dense if m.name in cuts}, {}, cuts, settings)
        for cuts in stages
    ]


def _plans(
    dense: Matrices, spread: Matrices, cuts: dict[str, TensorCut], settings: PlanSettings
) -> list[Plan]:
    """Make the plans of a stage: of experts, among the ranks that have the same ones."""
    plans: list[Plan] = []
    for matrices, ranks in (
        (dense, settings.ranks),
        (spread, settings.ranks // settings.expert_parallel),
    ):
        if matrices:
            layouts = _layouts(matrices, cuts, ranks, settings)
            plans += make_plans(layouts, settings.chosen_oracle, settings.exchange)
    return plans


def _layouts(
    matrices: Matrices, cuts: dict[str, TensorCut], ranks: int, settings: PlanSettings
) -> list[Layout]:
    blocks = {matrix.name: inside for matrix, inside in matrices.items()}
    if settings.tensor_parallel > 1:
        return [tensor_layout(blocks, cuts, settings.tensor_parallel, ranks)]
    layouts = zero_layouts(list(matrices), settings.stage, ranks, settings.sub_group_size)
    return [layout.split(blocks) for layout in layouts]


def all_rows(stages: Sequence[Sequence[Plan]], settings: PlanSettings) -> list[Row]:
    """Return one row per rank of all stages (see :func:`~.ranks.per_rank`), stage by stage."""
    ranks = settings.ranks * settings.tensor_parallel
    idle = {"matrices": 0, "flops": 0, "sent": 0, "peak": 0}
    rows: list[Row] = []
    for stage, plans in enumerate(stages):
        own = per_rank(plans, settings.exchange.wire_dtype.itemsize) if plans else [idle] * ranks
        rows += [{**row, "rank": stage * ranks + rank} for rank, row in enumerate(own)]
    return rows


def per_stage(stages: Sequence[Sequence[Plan]], rows: Sequence[Row]) -> list[Row]:
    """Return one row per stage.

    Args:
        stages: the plans of each.
        rows: of all ranks, as of :func:`all_rows`.

    Returns:
        ``stage``; ``matrices``; ``rounds`` and ``all_to_alls`` in a step; ``flops`` and ``sent``
        of all its ranks; ``most_flops`` and ``most_sent`` of one of them.
    """
    ranks = len(rows) // len(stages)
    result = []
    for stage, plans in enumerate(stages):
        own = rows[stage * ranks : (stage + 1) * ranks]
        flops, sent = ([row[key] for row in own] for key in ("flops", "sent"))
        result.append(
            {
                "stage": stage,
                "matrices": sum(len(plan.layout.matrices) for plan in plans),
                "rounds": sum(len(plan.rounds) for plan in plans),
                "all_to_alls": all_to_alls(plans),
                "flops": sum(flops),
                "sent": sum(sent),
                "most_flops": max(flops),
                "most_sent": max(sent),
            }
        )
    return result
