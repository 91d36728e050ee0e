"""Experts that DeepSpeed's AutoEP spreads over ranks, against one process that has all of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import pytest
import torch
import torch.distributed as dist
from deepspeed.utils import groups
from torch import Tensor, nn

import gradopt_ds
from gradopt_ds.experiments.exchange_plan.ranks import by_shape, per_rank
from gradopt_ds.experiments.exchange_plan.settings import PlanSettings
from gradopt_ds.experiments.exchange_plan.stages import plans_by_stage
from gradopt_ds.integration.parallel import auto_ep
from gradopt_ds.matrices import RowShards
from tests.distributed.auto_ep_cases import OF_TRANSFORMERS, RESUMED, STEPS, Case
from tests.distributed.auto_ep_model import MATRICES, StackedLM, as_one_process, build_stacked
from tests.distributed.engines import assert_raises, forward_backward, train
from tests.distributed.harness import distributed, folder, record
from tests.distributed.moe_model import MATRICES as QWEN2MOE
from tests.distributed.moe_model import build_even_moe
from tests.distributed.observe import (
    captured_gradients,
    clipped,
    in_last_places,
    masters,
    single_process_gradients,
)
from tests.distributed.recipes import RECIPES
from tests.reference import Array, StackedReference

Parts = Callable[[Array], list[Array]]


def build(case: Case) -> nn.Module:
    """The model as one process has it."""
    return build_stacked() if case.model == "stacked" else build_even_moe()


def start(case: Case, **extra: Any) -> Any:
    """An engine, its experts spread."""
    return deepspeed.initialize(model=build(case), config=case.config(**extra))[0]


def gathered(own: Mapping[str, Any], case: Case) -> dict[str, Array]:
    """What all ranks hold, as one process would."""
    parts: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, own)
    return {name: whole.numpy() for name, whole in as_one_process(parts, case.ep_size).items()}


@distributed(2, 4, cases=STEPS)
def test_steps_equal_the_reference(case: Case) -> None:
    """Every expert, wherever it is and however it is cut, against float64."""
    record(worst=worst_error(case, MATRICES))


def worst_error(case: Case, matrices: Mapping[str, Parts]) -> float:
    """Worst error of any update of three steps; none may exceed the tolerance."""
    recipe, twin = RECIPES[case.optimizer], build(case).double()
    engine = start(case)
    before, worst = gathered(masters(engine), case), 0.0
    references = {
        name: StackedReference(recipe.matrices, weight, matrices[name])
        if name in matrices
        else StackedReference(recipe.others, weight, lambda w: [w])
        for name, weight in before.items()
    }
    assert len(references) == len(dict(twin.named_parameters()))
    for step in range(3):
        load(twin, before)
        forward_backward(engine, step)
        gradients = single_process_gradients(twin, step, case.accumulation)
        if case.precision != "fp32":  # another token may be routed elsewhere
            gradients = gathered(captured_gradients(engine), case)
        if case.clipping:
            norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        gradients = clipped(gradients, case.clipping)
        engine.step()
        assert not case.clipping or engine.get_global_grad_norm() == pytest.approx(norm, rel=1e-5)
        after = gathered(masters(engine), case)
        for name, reference in references.items():
            reference.weight = before[name].copy()
            reference.step(gradients[name])
            expected = reference.weight - before[name]
            deviation = after[name] - before[name] - expected
            error = float(np.linalg.norm(deviation) / np.linalg.norm(expected))
            if case.precision == "pure bf16":
                error = in_last_places(deviation, after[name])
            assert error < case.tolerance, f"{name} at step {step}: {error}"
            worst = max(worst, error)
        before = after
    engine.destroy()
    return worst


def load(twin: nn.Module, weights: Mapping[str, Array]) -> None:
    """Give the single process the weights of all ranks."""
    with torch.no_grad():
        for name, param in twin.named_parameters():
            param.copy_(torch.as_tensor(weights[name]))


def works_with_this_transformers() -> bool:
    """Whether AutoEP can replace the layers of Qwen2MoE."""
    try:
        auto_ep.explain_failure(TypeError())
    except NotImplementedError:
        return False
    return True


@pytest.mark.skipif(
    not works_with_this_transformers(), reason=f"DeepSpeed needs transformers {auto_ep.NEWEST}"
)
@distributed(2, 4, cases=OF_TRANSFORMERS)
def test_steps_of_qwen2moe_equal_the_reference(case: Case) -> None:
    """With a release of transformers that AutoEP works with."""
    record(worst=worst_error(case, QWEN2MOE))


@pytest.mark.skipif(works_with_this_transformers(), reason="this transformers works")
@distributed(2)
def test_a_release_of_transformers_that_cannot_work_is_refused() -> None:
    """By its version, with the one that works; DeepSpeed's own optimizers keep its TypeError."""
    case = OF_TRANSFORMERS[0]
    assert_raises(NotImplementedError, f"transformers=={auto_ep.NEWEST}", lambda: start(case))
    plain = {"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}}
    assert_raises(TypeError, "positional arguments", lambda: start(case, **plain))


@distributed(2)
def test_what_is_not_held_against_the_reference_is_refused() -> None:
    """By name, before the first step."""
    case = Case("PolarGrad", 2, 0)
    model = build_stacked()
    mine = gradopt_ds.SWAN(gradopt_ds.matrix_param_groups(model))
    config = {key: value for key, value in case.config().items() if key != "optimizer"}
    for message, call in (
        ("clips by another norm", lambda: start(case, gradient_clipping=0.1)),
        ("an optimizer object", lambda: deepspeed.initialize(
            model=model, optimizer=mine, config=config
        )),
    ):  # fmt: skip
        assert_raises(NotImplementedError, message, call)


@distributed(2, 4, cases=[Case("PolarGrad", 2, stage) for stage in (1, 3)])
def test_each_expert_gets_one_oracle_call(case: Case) -> None:
    """Together over the ranks that hold it, and none over the others."""
    engine = start(case)
    optimizer = engine.basic_optimizer
    rule, count = optimizer._matrix_rule, torch.zeros(1)

    def counting(batch: Tensor, across: RowShards, group: Any) -> tuple[Tensor, Tensor]:
        count.add_(batch.shape[0])
        return rule(batch, across, group)

    optimizer._matrix_rule = counting
    train(engine, range(1))
    dist.all_reduce(count)
    assert count.item() == 1 + 3 * 4


@distributed(2, 4, cases=[Case("PolarGrad", 2, stage) for stage in (1, 3)])
def test_exchanges_stay_among_the_ranks_that_share_a_matrix(case: Case) -> None:
    """Experts in their expert-data-parallel group, the dense layer among all ranks."""
    engine, ranks = start(case), dist.get_world_size()
    experts = groups._get_expert_data_parallel_group("ep_size_2")
    assert dist.get_process_group_ranks(experts) == list(range(dist.get_rank() % 2, ranks, 2))
    exchanges = list(engine.basic_optimizer.matrix_map.exchanges.values())
    for exchange in exchanges:
        names = {matrix.name for matrix in exchange.plan.layout.matrices}
        size = dist.get_world_size(exchange.process_group)
        if any(".experts." in name for name in names):
            assert exchange.process_group is experts and size == ranks // 2
        else:
            assert {name.split("[")[0] for name in names} == {"blocks.0.dense.weight"}
            assert size == ranks
    assert len(exchanges) == 2


@distributed(2, 4, cases=[Case("PolarGrad", 2, stage) for stage in (1, 3)])
def test_the_plan_on_paper_is_that_of_the_engine(case: Case) -> None:
    """Of the experts and of the rest, to the last matrix and owner."""
    engine = start(case)
    settings = PlanSettings(
        model=Path("stacked"),
        stage=case.stage,
        ranks=dist.get_world_size(),
        expert_parallel=case.ep_size,
        oracle="svd",
    )
    with torch.device("meta"):
        (on_paper,) = plans_by_stage(StackedLM(), settings)
    exchanges = engine.basic_optimizer.matrix_map.exchanges.values()
    assert [plan.digest() for plan in on_paper] == [e.plan.digest() for e in exchanges]
    rows = per_rank(on_paper, bytes_per_element=4)
    assert len(rows) == settings.ranks
    assert sum(row["matrices"] for row in rows) == 13  # dense; gate, up and down of four experts
    assert sum(shape.local + shape.owner for shape in by_shape(on_paper)) == 13


@distributed(2, 4, cases=RESUMED)
def test_a_resume_is_bit_equal(case: Case) -> None:
    """Save, build anew from other weights, load, go on; every rank its own experts."""
    unbroken = start(case)
    train(unbroken, range(2))
    path = str(folder(f"{dist.get_world_size()}ranks", f"AutoEP {case.name}"))
    unbroken.save_checkpoint(path, tag="half")
    train(unbroken, range(2, 4))
    resumed = start(case)
    train(resumed, range(7, 8))
    resumed.load_checkpoint(path)
    train(resumed, range(2, 4))
    expected, actual = masters(unbroken), masters(resumed)
    for name, weight in expected.items():
        assert np.array_equal(weight, actual[name]), f"{name} differs"
