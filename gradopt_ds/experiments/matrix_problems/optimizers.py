"""The optimizers and their learning rates: PolarGrad's where the paper's scripts give them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from gradopt_ds.optim import Muon, PolarGrad

Build = Callable[[Sequence[Tensor]], Optimizer]
ORACLE = {"type": "qdwh", "steps": 2, "lower_bound": 1e-5}
"""Two steps leave singular values in [0.77, 1]. The learning rates are for such an oracle: with an
exact one both the polar factor and its nuclear norm are larger, and the quadratic problem diverges
at 4e-8."""


class AlternatingGD(SGD):
    """Gradient descent on one matrix at a time, in turns; for products of two."""

    turn = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Drop the gradients of all parameters but the one whose turn it is, then take a step."""
        params = self.param_groups[0]["params"]
        for number, param in enumerate(params):
            if number != self.turn % len(params):
                param.grad = None
        self.turn += 1
        super().step()


def polargrad(lr: float, **settings: Any) -> Build:
    """Build PolarGrad with the oracle of the paper's scripts."""
    return partial(_matrix, PolarGrad, lr=lr, oracle=ORACLE, **settings)


def momentum_first(lr: float) -> Build:
    """Build PolarGradM: the polar factor of the momentum."""
    return polargrad(lr, momentum=0.9, momentum_order="momentum_first")


def polar_first(lr: float) -> Build:
    """Build PolarGradM: the momentum of the polar factors."""
    return polargrad(lr, momentum=0.95, momentum_order="polar_first")


def _matrix(
    build: Callable[..., Optimizer], params: Sequence[Tensor], **settings: Any
) -> Optimizer:
    return build([{"params": list(params), "rule": "matrix"}], **settings)


OPTIMIZERS: dict[str, dict[str, Build]] = {
    "quadratic": {
        "PolarGrad": polargrad(4e-8, momentum=0.0),
        "PolarGradM, polar first": polar_first(4e-7),
        "PolarGradM, momentum first": momentum_first(2e-7),
        "Muon": partial(_matrix, Muon, lr=0.1, scale="none"),
        "Adam": partial(Adam, lr=0.05),
    },
    "logistic": {
        "PolarGrad": polargrad(1.5e-7, momentum=0.0),
        "PolarGradM, polar first": polar_first(5e-7),
        "PolarGradM, momentum first": momentum_first(2.5e-7),
        "Muon": partial(_matrix, Muon, lr=0.1, scale="none"),
        "Adam": partial(Adam, lr=5e-3),
    },
    "completion": {
        "PolarGrad": polargrad(50.0, momentum=0.0),
        "PolarGradM, polar first": polar_first(30.0),
        "PolarGradM, momentum first": momentum_first(20.0),
        "Muon": partial(_matrix, Muon, lr=0.25, scale="none"),
        "Adam": partial(Adam, lr=0.05),
        "alternating GD": partial(AlternatingGD, lr=50.0),
    },
}
