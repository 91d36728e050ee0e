"""Experts that saw no token, or a few: zero and low-rank gradients in a stack."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradopt_ds import SWAN, GradPower, Muon, PolarGrad, SinkGD, matrix_param_groups
from gradopt_ds.ops import ORACLES
from tests.compute_dtypes import both_compute_dtypes
from tests.distributed.moe_model import EXPERTS, LAYER, VOCABULARY, build_moe
from tests.reference import Rule, StackedReference

pytestmark = both_compute_dtypes
ROWS, COLUMNS = 12, 16
IDLE, FEW_TOKENS, BUSY = 0, 1, 2


class Stack(nn.Module):
    """Three experts in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, ROWS, COLUMNS, generator=torch.manual_seed(0)))


def groups(model: nn.Module) -> list[dict[str, Any]]:
    return matrix_param_groups(model, split={"weight": 1})


def gradient(seed: int = 1) -> Tensor:
    """One expert without tokens, one with three, one with many."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(3, ROWS, COLUMNS, generator=generator)
    g[IDLE] = 0
    # A gradient is a sum over tokens of outer products.
    g[FEW_TOKENS] = torch.randn(ROWS, 3, generator=generator) @ torch.randn(
        3, COLUMNS, generator=generator
    )
    return g


def step(optimizer: Any, model: Stack, g: Tensor) -> Tensor:
    """The change of the weights in one step."""
    before = model.weight.detach().clone()
    model.weight.grad = g
    optimizer.step()
    return model.weight.detach() - before


POLAR_ORACLES = [name for name in ORACLES if name != "nsds"]
BUILDS = {
    **{f"SWAN {o}": (SWAN, {"oracle": o}) for o in ORACLES},
    **{f"PolarGrad {o}": (PolarGrad, {"oracle": o, "momentum": 0.0}) for o in POLAR_ORACLES},
    **{f"Muon {o}": (Muon, {"oracle": o, "momentum": 0.9}) for o in POLAR_ORACLES},
    "PolarGrad polar first": (PolarGrad, {"momentum_order": "polar_first"}),
    "SinkGD": (SinkGD, {}),
}


@pytest.mark.parametrize("name", BUILDS)
def test_an_idle_expert_does_not_move(name: str) -> None:
    """To the last bit, by every rule and oracle, with a power too; the others move, finitely."""
    build, settings = BUILDS[name]
    for power in (0.9, 1.0, 1.2):
        model = Stack()
        moved = step(GradPower(build(groups(model), lr=0.1, **settings), power), model, gradient())
        assert not moved[IDLE].any()
        assert moved.isfinite().all()
        assert moved[FEW_TOKENS].norm() > 1e-3 and moved[BUSY].norm() > 1e-3


@pytest.mark.parametrize("name", ["SWAN svd", "PolarGrad svd", "SinkGD"])
def test_weight_decay_acts_on_idle_experts_too(name: str) -> None:
    """By exactly lr times decay."""
    build, settings = BUILDS[name]
    model = Stack()
    expected = model.weight.detach()[IDLE] * (1 - 0.1 * 0.5)
    step(build(groups(model), lr=0.1, weight_decay=0.5, **settings), model, gradient())
    assert torch.equal(model.weight[IDLE], expected)


@pytest.mark.parametrize("name", BUILDS)
def test_neighbours_in_the_batch_do_not_matter(name: str) -> None:
    """An expert beside idle ones moves as it does alone."""
    build, settings = BUILDS[name]
    together, alone = Stack(), Stack()
    g = gradient()
    moved = step(build(groups(together), lr=0.1, **settings), together, g)
    g = g.clone()
    g[BUSY] = 0
    moved_alone = step(build(groups(alone), lr=0.1, **settings), alone, g)
    torch.testing.assert_close(
        moved[FEW_TOKENS], moved_alone[FEW_TOKENS], rtol=1e-3, atol=1e-3 * float(moved.abs().max())
    )


EXACT = ("svd", "eigh", "adaptive")


@pytest.mark.parametrize("oracle", [*EXACT, "polar_express", "newton_schulz"])
@pytest.mark.parametrize("build", [SWAN, PolarGrad])
def test_three_tokens_make_a_step_of_rank_three(build: Any, oracle: str) -> None:
    """No noise outside the directions of the tokens; exact oracles give all three one strength."""
    model = Stack()
    settings: dict[str, Any] = {} if build is SWAN else {"momentum": 0.0}
    options = {} if oracle in EXACT else {"dtype": "float32"}
    optimizer = build(groups(model), lr=0.1, oracle={"type": oracle, **options}, **settings)
    moved = step(optimizer, model, gradient())
    s = torch.linalg.svdvals(moved[FEW_TOKENS].double())
    # The rounding of GradNorm is near the cutoff of the adaptive oracle.
    assert s[3] < (5e-2 if oracle == "adaptive" else 5e-3) * s[0]
    if oracle in EXACT:
        assert s[2] > (1 - 1e-3) * s[0]


RULES: dict[str, tuple[Any, dict[str, Any], Rule]] = {
    "PolarGrad": (
        PolarGrad,
        {"lr": 0.1, "momentum": 0.8, "oracle": "svd"},
        Rule("PolarGrad", lr=0.1, momentum=0.8),
    ),
    "Muon": (
        Muon,
        {"lr": 0.1, "momentum": 0.8, "oracle": "svd"},
        Rule("PolarGrad", lr=0.1, momentum=0.8, scale="none", nesterov=True),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_momentum_carries_an_expert_on(name: str) -> None:
    """Active, then idle twice: PolarGrad's steps shrink with the momentum, Muon's do not."""
    build, settings, rule = RULES[name]
    model = Stack()
    optimizer = build(groups(model), **settings)
    reference = StackedReference(rule, model.weight.detach().double().numpy(), list)
    lengths = []
    for seed, idle in ((1, []), (2, [BUSY]), (3, [BUSY])):
        g = gradient(seed)
        g[idle] = 0
        before = reference.weight.copy()
        moved = step(optimizer, model, g).double().numpy()
        reference.step(g.numpy())
        np.testing.assert_allclose(moved, reference.weight - before, rtol=1e-3, atol=1e-4)
        lengths.append(np.linalg.norm(moved[BUSY]))
    ratio = 1.0 if name == "Muon" else 0.8
    assert lengths[1:] == pytest.approx([lengths[0] * ratio, lengths[0] * ratio**2], rel=1e-3)


@pytest.mark.parametrize("build", [SWAN, PolarGrad, Muon, SinkGD])
def test_idle_experts_of_a_real_mixture(build: Any) -> None:
    """Three tokens reach at most six of the gates and ups; the rest stay where they are."""
    model = build_moe()
    chosen: set[int] = set()
    router = model.model.layers[0].mlp.gate
    router.register_forward_hook(lambda *call: chosen.update(call[-1][2].flatten().tolist()))
    model(torch.arange(3)[None] % VOCABULARY).backward()
    idle = set(range(EXPERTS)) - chosen
    assert idle and chosen
    experts = {n: p for n, p in model.named_parameters() if n.startswith(f"{LAYER}.mlp.experts.")}
    before = {name: param.detach().clone() for name, param in experts.items()}
    build(matrix_param_groups(model), lr=0.1).step()
    for name, param in experts.items():
        assert param.isfinite().all()
        for expert in range(EXPERTS):
            assert torch.equal(param[expert], before[name][expert]) == (expert in idle)
