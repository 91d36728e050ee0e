"""The step on parameters with several matrices, against the float64 reference."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradopt_ds import SWAN, Muon, PolarGrad, SinkGD, matrix_param_groups
from gradopt_ds.matrices import RowShards
from tests.distributed.model import SAMPLES
from tests.distributed.moe_model import (
    HEADS_SPLIT,
    LAYER,
    MATRICES,
    MATRICES_WITH_HEADS,
    VOCABULARY,
    TinyMoe,
    build_moe,
)
from tests.reference import Reference, Rule, StackedReference

RULES: dict[str, tuple[Any, dict[str, Any], Rule]] = {
    "SWAN": (SWAN, {"lr": 0.2, "alpha": 0.1, "oracle": "svd"}, Rule("SWAN", lr=0.2, alpha=0.1)),
    "SinkGD": (SinkGD, {"lr": 0.2, "alpha": 0.1}, Rule("SinkGD", lr=0.2, alpha=0.1)),
    "PolarGrad": (
        PolarGrad,
        {"lr": 0.1, "momentum": 0.8, "oracle": "svd"},
        Rule("PolarGrad", lr=0.1, momentum=0.8),
    ),
    "PolarGrad polar first": (
        PolarGrad,
        {"lr": 0.1, "momentum": 0.8, "oracle": "svd", "momentum_order": "polar_first"},
        Rule("PolarGrad", lr=0.1, momentum=0.8, momentum_order="polar_first"),
    ),
    "Muon": (
        Muon,
        {"lr": 0.1, "momentum": 0.8, "oracle": "svd", "scale": "spectral"},
        Rule("PolarGrad", lr=0.1, momentum=0.8, scale="spectral", nesterov=True),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_every_expert_gets_the_rule_of_its_own(name: str) -> None:
    """Two steps on Qwen2MoE against the float64 reference, matrix by matrix."""
    build, settings, rule = RULES[name]
    model = build_moe()
    optimizer = build(matrix_param_groups(model, split=HEADS_SPLIT), **settings)
    named = dict(model.named_parameters())
    references = {
        name: StackedReference(rule, named[name].detach().double().numpy(), parts)
        for name, parts in MATRICES_WITH_HEADS.items()
    }
    for step in range(2):
        backward(model, step)
        for name, reference in references.items():
            gradient = named[name].grad
            assert gradient is not None
            reference.weight = named[name].detach().double().numpy().copy()
            reference.step(gradient.double().numpy())
        before = {name: named[name].detach().double().numpy().copy() for name in references}
        optimizer.step()
        for name, reference in references.items():
            moved = np.linalg.norm(reference.weight - before[name])
            error = np.linalg.norm(named[name].detach().double().numpy() - reference.weight)
            assert error < 1e-4 * moved, (name, step)


def test_matrices_of_one_shape_share_a_call() -> None:
    """Ten gates and ups, and whatever else is 8 x 16, in one call of the rule."""
    model = build_moe()
    optimizer = Muon(matrix_param_groups(model), oracle="svd")
    rule, calls = optimizer._matrix_rule, []

    def counting(batch: Tensor, across: RowShards, group: Any) -> tuple[Tensor, Tensor]:
        calls.append(tuple(batch.shape))
        return rule(batch, across, group)

    optimizer._matrix_rule = counting  # type: ignore[method-assign]
    backward(model, 0)
    optimizer.step()
    # k, v: 8 x 16; q, o: 16 x 16; shared expert: 12 x 16 twice and 16 x 12; experts' down: 16 x 8.
    assert sorted(calls) == [(1, 16, 12), (2, 12, 16), (2, 16, 16), (5, 16, 8), (12, 8, 16)]


def backward(model: TinyMoe, step: int) -> None:
    """Fresh gradients."""
    generator = torch.Generator().manual_seed(step)
    model.zero_grad()
    model(torch.randint(VOCABULARY, (SAMPLES, 13), generator=generator)).backward()


def test_plain_reference_of_a_whole_matrix_is_the_old_one() -> None:
    """The stacked reference of one matrix is the reference that everything else is held against."""
    rule, rng = Rule("SWAN", lr=0.2, alpha=0.1), np.random.default_rng(0)
    weight, gradient = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    stacked = StackedReference(rule, weight, MATRICES[f"{LAYER}.self_attn.q_proj.weight"])
    single = Reference(rule, weight)
    stacked.step(gradient)
    single.step(gradient)
    np.testing.assert_array_equal(stacked.weight, single.weight)
