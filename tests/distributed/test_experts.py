"""DeepSpeed MoE layers on real engines.

On four ranks two sets of two share the experts, and cut them.
"""

from typing import Any

import deepspeed
import numpy as np
import pytest
import torch
import torch.distributed as dist
from deepspeed.utils import groups
from torch import Tensor

from gradopt_ds.matrices import RowShards
from tests.distributed.engines import forward_backward, train
from tests.distributed.expert_cases import COUNTED, RESUMED, STEPS, Case
from tests.distributed.expert_model import (
    STACK,
    ExpertLM,
    build_expert_model,
    global_name,
    matrices,
)
from tests.distributed.harness import distributed, folder
from tests.distributed.observe import (
    captured_gradients,
    clipped,
    in_last_places,
    masters,
    single_process_gradients,
)
from tests.distributed.recipes import RECIPES
from tests.reference import Array, Reference


def start(case: Case) -> Any:
    """An engine; every rank has the experts that are its own."""
    model = build_expert_model(case.experts, case.ep_size, case.ep_rank)
    return deepspeed.initialize(model=model, config=case.config())[0]


@distributed(2, 4, cases=STEPS)
def test_steps_equal_the_reference(case: Case) -> None:
    """Every expert, wherever it is and however it is cut, against float64."""
    recipe = RECIPES[case.optimizer]
    engine, twin = start(case), single_process_model(case)
    before = masters(engine)
    whole = {name: global_name(name, case.ep_rank) for name in before}
    references = {
        name: Reference(
            recipe.matrices if whole[name] in matrices(case.experts) else recipe.others, weight
        )
        for name, weight in before.items()
    }
    for step in range(3):
        forward_backward(engine, step)
        single = single_process_gradients(twin, step, case.accumulation)
        if case.zero.get("round_robin_gradients"):
            # DeepSpeed's own look-up goes to the wrong elements.
            gradients = {name: single[whole[name]] for name in whole}
        else:
            gradients = captured_gradients(engine)
        for name, gradient in gradients.items():
            # In half precision another token may be routed elsewhere.
            if case.precision == "fp32":
                assert relative(gradient, single[whole[name]]) < 1e-5, (case, name)
        if case.clipping:
            # By the norm over all experts, of which a rank sees its own.
            gradients = {name: clipped(single, case.clipping)[whole[name]] for name in whole}
        engine.step()
        after = masters(engine)
        if case.zero.get("round_robin_gradients"):
            # The single process differs by rounding, which is no less than such directions.
            references = {n: kept for n, kept in references.items() if full_rank(gradients[n])}
            assert any(name.startswith(STACK) for name in references)
        for name, reference in references.items():
            reference.weight = before[name].copy()
            reference.step(gradients[name])
            expected = reference.weight - before[name]
            error = relative(after[name] - before[name], expected)
            if case.precision == "pure bf16":
                error = in_last_places(after[name] - reference.weight, after[name])
            assert error < case.tolerance, f"{case}: {name} at step {step}: {error}"
        before = after
        copy_to_twin(engine, twin, whole)
    engine.destroy()


def relative(actual: Array, expected: Array) -> float:
    """Error in the Frobenius norm; NaN fails every comparison."""
    if not expected.any():  # An expert without tokens.
        return float(np.abs(actual).max())
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def full_rank(gradient: Array) -> bool:
    """Whether enough tokens reached the matrix; true of what is no matrix."""
    return gradient.ndim < 2 or bool(np.linalg.cond(gradient) < 1e4)


def single_process_model(case: Case) -> ExpertLM:
    """All experts on every rank, and no communication."""
    twin = build_expert_model(case.experts)
    twin.mixture.set_deepspeed_parallelism()
    return twin


def copy_to_twin(engine: Any, twin: ExpertLM, whole: dict[str, str]) -> None:
    """All ranks' experts into the single process."""
    own = {whole[name]: param.detach() for name, param in engine.module.named_parameters()}
    everyone: list[dict[str, Tensor]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own)
    with torch.no_grad():
        for name, param in twin.named_parameters():
            holder = next(weights for weights in everyone if name in weights)
            param.copy_(holder[name])


@distributed(2, 4, cases=COUNTED)
def test_each_expert_gets_one_oracle_call(case: Case) -> None:
    """Together over the ranks that hold it, and none over the others."""
    engine = start(case)
    optimizer = engine.basic_optimizer
    rule, count = optimizer._matrix_rule, torch.zeros(1)

    def counting(
        batch: Tensor, across: RowShards, group: Any, rule: Any = rule, count: Any = count
    ) -> tuple[Tensor, Tensor]:
        count.add_(batch.shape[0])
        return rule(batch, across, group)

    optimizer._matrix_rule = counting
    train(engine, range(1))
    dist.all_reduce(count)
    assert count.item() == len(matrices(case.experts)), count


@distributed(2, 4)
def test_exchanges_stay_among_the_ranks_that_share_a_matrix() -> None:
    """Experts in their expert-data-parallel group, the dense layer among all ranks."""
    case = Case("PolarGrad", 2, 2)
    engine = start(case)
    exchanges = engine.basic_optimizer.matrix_map.exchanges.values()
    experts = groups._get_expert_data_parallel_group("ep_size_2")
    for exchange in exchanges:
        names = {matrix.name for matrix in exchange.plan.layout.matrices}
        sizes = dist.get_world_size(exchange.process_group)
        if any(name.startswith(STACK) for name in names):
            assert exchange.process_group is experts and sizes == dist.get_world_size() // 2
            assert len(exchange.plan.cut) == (1 if sizes == 2 else 0)
        else:
            assert names == {"dense.weight"} and sizes == dist.get_world_size()
    assert len(exchanges) == 2


@distributed(2, 4, cases=RESUMED)
def test_a_resume_is_bit_equal(case: Case) -> None:
    """Save, build anew from other weights, load, go on; every rank its own experts."""
    unbroken = start(case)
    train(unbroken, range(2))
    path = str(folder(f"{dist.get_world_size()}ranks", f"experts {case.name}"))
    unbroken.save_checkpoint(path, tag="half")
    train(unbroken, range(2, 4))
    resumed = start(case)
    with torch.no_grad():
        for param in resumed.module.parameters():
            param.add_(1.0)
    resumed.load_checkpoint(path)
    train(resumed, range(2, 4))
    for (name, a), (_, b) in zip(
        unbroken.module.named_parameters(), resumed.module.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), f"{case}: {name} differs"


@distributed(2, 4)
def test_what_is_not_held_against_the_reference_is_refused() -> None:
    """By name, before DeepSpeed's own assertion."""
    for case, message in (
        (Case("SWAN", 2, 3), "DeepSpeed MoE layers at ZeRO stage 3"),
        (Case("PolarGrad", 2, 0, clipping=0.1), "clips by another norm"),
        (Case("PolarGrad", 1, 0, "bf16", clipping=0.1), "clips by another norm"),
    ):
        with pytest.raises(NotImplementedError, match=message):
            start(case)
