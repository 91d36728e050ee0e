"""Tensor x pipeline x data parallelism on paper, up to 1,024 ranks."""

import time
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.common.command_line import build
from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.exchange_plan import report
from gradopt_ds.experiments.exchange_plan.settings import PlanSettings
from gradopt_ds.experiments.exchange_plan.stages import all_rows, per_stage, plans_by_stage
from gradopt_ds.integration.parallel.tensor_on_paper import tensor_cuts
from tests.conftest import ROOT

SIZES = [
    (1, 1, 4), (2, 1, 3), (3, 1, 2), (8, 1, 1), (1, 4, 8), (4, 2, 4), (3, 3, 5), (8, 8, 16),
    (16, 1, 64), (2, 2, 256),
]  # fmt: skip
"""Tensor-parallel ranks x stages x data-parallel ranks."""


@cache
def model(name: str) -> nn.Module:
    """Shapes alone."""
    return models.on_meta(models.model_config(ROOT / f"configs/models/{name}.json"))


def planned(name: str, tensor: int, pipeline: int, data: int, **more: Any) -> PlanSettings:
    return PlanSettings(
        model=Path(name), stage=1, ranks=data, tensor_parallel=tensor, pipeline=pipeline, **more
    )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    ("name", "preset"), [("60m", None), ("7b", None), ("qwen2moe_tiny", "qwen2")]
)
def test_every_matrix_once_and_bytes_by_the_formula(
    name: str, preset: str | None, sizes: tuple[int, int, int]
) -> None:
    """Over all ranks of all stages; the elements that stay come from the layouts of the parts."""
    if name == "qwen2moe_tiny" and sizes[1] > 4:
        pytest.skip("has seven layers")
    settings = planned(name, *sizes, tensor_parallel_preset=preset)
    stages = plans_by_stage(model(name), settings)
    rows = all_rows(stages, settings)
    assert [row["rank"] for row in rows] == list(range(prod(sizes)))
    plans = [plan for own in stages for plan in own]
    whole = plans_by_stage(model(name), planned(name, 1, 1, 1))
    wanted = sorted((m.name, m.rows, m.columns) for m in whole[0][0].layout.matrices)
    assert sorted((m.name, m.rows, m.columns) for p in plans for m in p.layout.matrices) == wanted
    assert sum(row["matrices"] for row in rows) == len(wanted)
    oracle = settings.chosen_oracle
    assert sum(row["flops"] for row in rows) == sum(oracle.flops(m, n) for _, m, n in wanted)
    cuts = tensor_cuts(model(name), sizes[0], preset)
    assert sum(row["sent"] for row in rows) == sum(
        formula(plan, index, cuts[matrix.name].axis is None and sizes[0] > 1, sizes[0])
        for plan in plans
        for index, matrix in enumerate(plan.layout.matrices)
    )


def formula(plan: Any, index: int, is_copied: bool, tensor: int) -> int:
    """Bytes of a matrix in fp32: pieces there, updates back, a scale with every piece."""
    if plan.strategies[index] == "local":
        return 0
    own, numel = plan.layout.piece(index, plan.owners[index]), plan.layout.matrices[index].numel
    copies = tensor if is_copied else 1
    pieces = len(plan.layout.holders(index)) - 1
    return 4 * (numel - own.length) + 4 * (copies * numel - own.length) + 4 * pieces


def test_a_stage_has_what_a_model_of_its_layers_has() -> None:
    """Its plan equals that of the same matrices alone: stages share nothing."""
    settings = planned("60m", 2, 3, 2, pipeline_partition="uniform")
    stages = plans_by_stage(model("60m"), settings)
    layers = [sorted({m.name.split(".")[2] for p in s for m in p.layout.matrices}) for s in stages]
    # 8 layers with embedding, norm and head: 11, in 4, 4 and 3.
    assert layers == [["0", "1", "2"], ["3", "4", "5", "6"], ["7"]]
    rows = all_rows(stages, settings)
    by_stage = per_stage(stages, rows)
    assert [row["matrices"] for row in by_stage] == [21, 28, 7]
    assert sum(row["flops"] for row in by_stage) == sum(row["flops"] for row in rows)
    assert by_stage[1]["most_flops"] == max(row["flops"] for row in rows[4:8])
    assert "the busiest is stage 1" in (report.stages_table(by_stage).title or "")


def test_a_stage_without_matrices() -> None:
    """Its ranks have nothing to do; the others do all."""
    settings = planned("60m", 1, 4, 2)
    stages = plans_by_stage(model("60m"), settings)
    empty = [index for index, plans in enumerate(stages) if not plans]
    assert empty == [0, 3]  # the embedding, and the head
    rows = all_rows(stages, settings)
    assert [row["sent"] for row in rows[:2] + rows[6:]] == [0, 0, 0, 0]
    assert sum(row["matrices"] for row in rows) == 8 * 7


def test_7b_on_1024_ranks_takes_seconds() -> None:
    """Any division of them; what a rank holds at a time does not grow with their number."""
    peaks = {}
    for data in (8, 128):
        started = time.process_time()
        settings = planned("7b", 8, 1, data)
        rows = all_rows(plans_by_stage(model("7b"), settings), settings)
        assert time.process_time() - started < 30  # 2 s on an idle core
        peaks[data] = max(row["peak"] for row in rows)
    assert len(rows) == 1024
    assert peaks[128] <= peaks[8]


def test_sizes_that_do_not_go_together_name_the_setting() -> None:
    for flags in ({"tensor_parallel": 2}, {"pipeline": 2, "stage": 2}, {"tensor_parallel": 0}):
        with pytest.raises(PretrainError, match="tensor_parallel|pipeline|tensor-parallel"):
            build(PlanSettings, {"model": Path("x"), **flags})
