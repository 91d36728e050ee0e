"""The update rules once more, in float64 numpy, for the tests to compare with.

Written from the papers' formulas with a full SVD and plain loops; it shares no code with the
library. One parameter at a time, whole matrices, one process.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

FLOAT32_EPS = 2.0**-23
"""Gradients come in float32: singular values below its resolution are not information."""


def polar(g: Array) -> Array:
    """U V^T over the singular values that float32 can tell from zero."""
    if not g.any():
        return np.zeros_like(g)
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    kept = s > s[0] * max(g.shape) * FLOAT32_EPS
    return u[:, kept] @ vt[kept]


def newton_schulz(g: Array, steps: int = 5) -> Array:
    """Muon's iteration, on the wide side."""
    x = (g.T if g.shape[0] > g.shape[1] else g) / np.linalg.norm(g)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def nuclear(g: Array) -> float:
    """Sum of the singular values."""
    return float(np.linalg.svd(g, compute_uv=False).sum())


def swan_direction(g: Array, polar: Callable[[Array], Array] = polar) -> Array:
    """GradNorm, GradWhitening, rescaling to the norm of a matrix of ones."""
    centred = g - g.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True))
    normed = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    white = polar(normed)
    norm = np.linalg.norm(white)
    return white * (np.sqrt(g.size) / norm) if norm > 0 else white


def sinkgd_direction(g: Array, iterations: int) -> Array:
    """Rows to norm sqrt(n), then columns to norm sqrt(m), so many times; zeros stay."""
    x = g.copy()
    for _ in range(iterations):
        for axis in (1, 0):
            norms = np.sqrt((x**2).sum(axis=axis, keepdims=True) / x.shape[axis])
            x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    return x


@dataclass
class Rule:
    """One optimizer's settings, under the names that the JSON uses."""

    algorithm: str
    lr: float
    power: float = 1.0
    weight_decay: float = 0.0
    momentum: float = 0.95
    momentum_order: str = "momentum_first"
    nesterov: bool = False
    scale: str = "nuclear"
    nuclear_exponent: float = 1.0
    alpha: float = 0.05
    iterations: int = 5
    polar: Callable[[Array], Array] = polar
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass
class Reference:
    """One parameter and its state; ``step`` applies the rule to the next gradient."""

    rule: Rule
    weight: Array
    momentum: Array = field(init=False)
    second: Array = field(init=False)
    steps: int = 0

    def __post_init__(self) -> None:
        self.weight = np.array(self.weight, dtype=np.float64)
        self.momentum = np.zeros_like(self.weight)
        self.second = np.zeros_like(self.weight)

    def step(self, gradient: Array) -> None:
        """Update the weight with an averaged, unscaled, clipped gradient."""
        rule = self.rule
        g = np.sign(gradient) * np.abs(np.float64(gradient)) ** rule.power
        self.steps += 1
        self.weight *= 1 - rule.lr * rule.weight_decay
        update = {
            "SWAN": self._swan,
            "SinkGD": self._sinkgd,
            "PolarGrad": self._polar_grad,
            "AdamW": self._adamw,
        }
        self.weight -= rule.lr * update[rule.algorithm](g)

    def _swan(self, g: Array) -> Array:
        return self.rule.alpha * swan_direction(g, self.rule.polar)

    def _sinkgd(self, g: Array) -> Array:
        return self.rule.alpha * sinkgd_direction(g, self.rule.iterations)

    def _polar_grad(self, g: Array) -> Array:
        rule, beta = self.rule, self.rule.momentum
        if rule.momentum_order == "polar_first":
            self.momentum = beta * self.momentum + (1 - beta) * rule.polar(g)
            return self._scale(g) * self.momentum
        self.momentum = beta * self.momentum + (1 - beta) * g
        m = (1 - beta) * g + beta * self.momentum if rule.nesterov else self.momentum
        return self._scale(m) * rule.polar(m)

    def _scale(self, m: Array) -> float:
        rows, columns = m.shape
        if self.rule.scale == "nuclear":
            return nuclear(m) ** self.rule.nuclear_exponent
        if self.rule.scale == "spectral":
            return float(np.sqrt(max(1.0, rows / columns)))
        return float(0.2 * np.sqrt(max(rows, columns))) if self.rule.scale == "rms" else 1.0

    def _adamw(self, g: Array) -> Array:
        first, second = self.rule.betas
        self.momentum = first * self.momentum + (1 - first) * g
        self.second = second * self.second + (1 - second) * g**2
        corrected = self.momentum / (1 - first**self.steps)
        root = np.sqrt(self.second / (1 - second**self.steps))
        return corrected / (root + self.rule.eps)


@dataclass
class StackedReference:
    """Several matrices that a model keeps in one tensor; ``step`` applies the rule to each.

    Attributes:
        rule: the optimizer.
        weight: the tensor.
        parts: from such a tensor to its matrices, as views; of a matrix whose rows do not lie
            together, ``[groups, rows, columns]``.
    """

    rule: Rule
    weight: Array
    parts: Callable[[Array], list[Array]]
    references: list[Reference] = field(init=False)

    def __post_init__(self) -> None:
        self.weight = np.array(self.weight, dtype=np.float64)
        self.references = [Reference(self.rule, _rows(p)) for p in self.parts(self.weight)]

    def step(self, gradient: Array) -> None:
        """Update every matrix with its part of the gradient."""
        gradients = self.parts(np.asarray(gradient, dtype=np.float64))
        for reference, part, g in zip(
            self.references, self.parts(self.weight), gradients, strict=True
        ):
            reference.weight = _rows(part).copy()
            reference.step(_rows(g))
            part[...] = reference.weight.reshape(part.shape)


def _rows(part: Array) -> Array:
    return part.reshape(-1, part.shape[-1]) if part.ndim > 2 else part
