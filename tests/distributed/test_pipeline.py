"""Pipeline stages: every step is the one that a single process takes with the whole model."""

from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gradopt_ds.optim import MatrixOptimizer, base_of
from tests.distributed.harness import distributed, record
from tests.distributed.model import micro_batch
from tests.distributed.observe import array, clipped, masters
from tests.distributed.pipeline_cases import ON_2, ON_4, PipelineCase
from tests.distributed.pipeline_model import MATRICES, MODELS, OneProcess, batches, build_stages
from tests.distributed.recipes import RECIPES
from tests.reference import Array, Reference

STEPS = 3
DTYPES = {"fp32": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of the single process. In half precision a gradient is what that precision makes of it."""


@distributed(2, 4, cases={2: ON_2, 4: ON_4})
def test_a_step_is_that_of_one_process(case: PipelineCase) -> None:
    """Weights of all stages, tied ones too, after each of three steps."""
    engine = start(case)
    assert matrices_of(engine) <= MATRICES[case.model]
    twin = OneProcess(MODELS[case.model]()).to(DTYPES[case.precision])
    before = whole_model(engine, masters(engine))
    references = {name: reference(case, name, weight) for name, weight in before.items()}
    worst = 0.0
    for step in range(STEPS):
        gradients = gradients_of_one_process(twin, case, step, engine)
        engine.train_batch(batches(step, case.accumulation, engine.grid.get_data_parallel_rank()))
        after = whole_model(engine, masters(engine))
        for name, rule in references.items():
            rule.weight = before[name].copy()
            rule.step(gradients[name])
            expected = rule.weight - before[name]
            error = np.linalg.norm(after[name] - rule.weight) / np.linalg.norm(expected)
            assert error <= case.tolerance, f"{name} at step {step}: {error}"
            worst = max(worst, float(error))
        assert_copies_are_equal(engine)
        copy_weights(engine, twin)
        before = after
    record(error=worst)
    engine.destroy()


@distributed(2, cases=[PipelineCase("tied matrix", "MuonPower", stage) for stage in (0, 1)])
def test_a_copy_that_has_drifted_is_set_right(case: PipelineCase) -> None:
    """However the arithmetic of two stages may differ, a step ends with equal copies."""
    engine = start(case)
    engine.train_batch(batches(0, 1, 0))
    assert_copies_are_equal(engine)
    if engine.is_last_stage():
        for group in engine.basic_optimizer.param_groups:
            for held in group["params"]:  # weights, or the slices that they come from
                held.data.mul_(1 + 2**-20)
    engine.train_batch(batches(1, 1, 0))
    assert_copies_are_equal(engine)
    engine.destroy()


def start(case: PipelineCase, **more: Any) -> Any:
    """An engine with the model of a case."""
    module = build_stages(case.model, case.pipeline_stages)
    return deepspeed.initialize(model=module, config=case.config(**more))[0]


def reference(case: PipelineCase, name: str, weight: Array) -> Reference:
    """What updates a parameter, by the list that was written by hand."""
    recipe = RECIPES[case.optimizer]
    return Reference(recipe.matrices if name in MATRICES[case.model] else recipe.others, weight)


def matrices_of(engine: Any) -> set[str]:
    """What has got the matrix rule on this stage; all, if there are no rules."""
    base = base_of(engine.basic_optimizer)
    if not isinstance(base, MatrixOptimizer):
        return set()
    return {assignment.name for assignment in base.assignments.values() if assignment.blocks}


def gradients_of_one_process(
    twin: OneProcess, case: PipelineCase, step: int, engine: Any
) -> dict[str, Array]:
    """Averaged over the micro-batches of all pipelines, and clipped by the norm of all."""
    pipelines, scale = engine.dp_world_size, getattr(engine.optimizer, "loss_scale", 1.0)
    sums = {name: np.zeros(param.shape) for name, param in twin.named_parameters()}
    for pipeline in range(pipelines):
        for micro in range(case.accumulation):
            twin.zero_grad()
            loss = twin(micro_batch(step, micro, pipeline)) / case.accumulation
            (loss * scale).backward()
            for name, param in twin.named_parameters():
                sums[name] += array(param.grad) / (scale * pipelines)
    return clipped(sums, case.clipping)


def whole_model(engine: Any, mine: dict[str, Any]) -> dict[str, Any]:
    """What all stages have, by name; of a tied layer what its first stage has."""
    stages: list[dict[str, Any]] = [{}] * engine.num_stages
    dist.all_gather_object(stages, mine, group=engine.grid.get_pipe_parallel_group())
    whole: dict[str, Any] = {}
    for stage in stages:
        whole = {**stage, **whole}
    return whole


def weights_of(engine: Any) -> dict[str, Tensor]:
    """Copies of the weights of this stage, as plain tensors."""
    return {name: param.detach().clone() for name, param in engine.module.named_parameters()}


def assert_copies_are_equal(engine: Any) -> None:
    """All the copies of a tied weight, bit by bit."""
    mine = weights_of(engine)
    everywhere: list[dict[str, Tensor]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everywhere, mine)
    for other in everywhere:
        for name in mine.keys() & other.keys():
            assert torch.equal(mine[name], other[name]), f"the copies of {name} differ"


def copy_weights(engine: Any, twin: OneProcess) -> None:
    """Let the next step begin with the same weights, without the rounding of the last."""
    weights = whole_model(engine, weights_of(engine))
    with torch.no_grad():
        for name, param in twin.named_parameters():
            param.copy_(weights[name])
