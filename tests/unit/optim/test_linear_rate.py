"""PolarGrad's rate on strongly convex quadratics, and what the nuclear norm has to do with it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds import Muon, PolarGrad


class Quadratic:
    """``f(X) = 1/2 ||A X B||^2`` in float64: minimum 0 at 0, Hessian eigenvalues in [mu, L]."""

    def __init__(self, m: int, n: int, condition: float, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        # All the conditioning is A's, so that mu = 1 / condition and L = 1 exactly.
        values = torch.logspace(0, -0.5, m, base=condition, dtype=torch.float64)
        turns = [
            torch.linalg.qr(torch.randn(k, k, generator=draw, dtype=torch.float64))[0]
            for k in (m, n)
        ]
        self.a = turns[0] * values @ turns[0].mT
        self.b = turns[1]
        self.x = torch.randn(m, n, generator=draw, dtype=torch.float64).requires_grad_()

    def value(self) -> Tensor:
        """f at the current point."""
        return (self.a @ self.x @ self.b).square().sum() / 2


def descend(problem: Quadratic, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The values along the way."""
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = problem.value()
        value.backward()
        values.append(value.item())
        optimizer.step()
    return values


def polargrad(problem: Quadratic, lr: float, **settings: object) -> PolarGrad:
    """PolarGrad without momentum, with exact polar factors."""
    group = {"params": [problem.x], "rule": "matrix"}
    return PolarGrad([group], lr=lr, momentum=0.0, oracle="svd", **settings)  # type: ignore[arg-type]


@settings(max_examples=10, deadline=None)
@given(
    m=st.integers(2, 12),
    n=st.integers(2, 12),
    condition=st.floats(1, 30),
    seed=st.integers(0, 99),
)
def test_linear_convergence_at_one_over_l_r(m: int, n: int, condition: float, seed: int) -> None:
    """Every step with lr = 1/(L r) shrinks f by 1 - mu/(L r) or more, r the rank of G.

    By smoothness f falls by lr ||G||_*^2 - L r lr^2 ||G||_*^2 / 2 = ||G||_*^2 / (2 L r), and
    ||G||_*^2 >= ||G||_F^2 >= 2 mu f.
    """
    problem = Quadratic(m, n, condition, seed)
    rank = min(m, n)
    values = descend(problem, polargrad(problem, lr=1 / rank), 30)
    bound = 1 - 1 / condition / rank
    for before, after in pairwise(values):
        assert after <= before * bound * (1 + 1e-9)


def test_the_step_may_not_be_much_larger() -> None:
    """L r is no excess of caution: where all directions are alike, 3/(L r) diverges."""
    problem = Quadratic(8, 8, 1.0, seed=1)
    with torch.no_grad():
        problem.x.copy_(torch.eye(8, dtype=torch.float64))
    values = descend(problem, polargrad(problem, lr=3 / 8), 20)
    assert values[-1] > 1e3 * values[0]


@pytest.mark.parametrize("oracle", ["svd", "eigh", "adaptive", "qdwh", "polar_express"])
def test_it_holds_for_every_oracle(oracle: str) -> None:
    """Polar factors that are a few percent off do not cost the rate."""
    problem = Quadratic(8, 12, 4.0, seed=0)
    group = {"params": [problem.x], "rule": "matrix"}
    values = descend(problem, PolarGrad([group], lr=1 / 8, momentum=0.0, oracle=oracle), 200)
    assert values[-1] < 1e-8 * values[0]


@pytest.mark.parametrize("scale", ["nuclear", "none"])
def test_without_the_nuclear_norm_it_plateaus(scale: str) -> None:
    """The same optimizer, from the same step length: one converges, the other oscillates."""
    problem = Quadratic(8, 12, 4.0, seed=0)
    nuclear = torch.linalg.svdvals(torch.autograd.grad(problem.value(), problem.x)[0]).sum()
    lr = 1 / 8 if scale == "nuclear" else float(nuclear) / 8
    values = descend(problem, polargrad(problem, lr=lr, scale=scale), 300)
    if scale == "nuclear":
        assert values[-1] < 1e-12 * values[0]
    else:
        assert min(values[50:]) > 1e-4 * values[0]
        assert max(values[150:]) > 0.5 * max(values[50:150])


def test_muon_s_plateau_has_the_height_of_its_step() -> None:
    """Ten times smaller steps stop 100 times lower, and no lower."""
    ends = []
    for lr in (1e-1, 1e-2):
        problem = Quadratic(6, 8, 2.0, seed=3)
        group = {"params": [problem.x], "rule": "matrix"}
        muon = Muon([group], lr=lr, momentum=0.0, nesterov=False, oracle="svd")
        ends.append(min(descend(problem, muon, int(6 / lr))[-20:]))
    assert ends[0] / ends[1] == pytest.approx(100, rel=0.9)
    assert ends[1] > 1e-6
