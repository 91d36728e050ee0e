"""QDWH: the dynamically weighted Halley iteration for the polar factor."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.oracles.oracle import Oracle, is_count, is_real, require

QR_ABOVE = 100
"""Weight c above which a step takes the QR form: the Cholesky form loses log10(c) digits."""

SOLUTION = {torch.float32: 5, torch.float64: 6}
"""Steps from the smallest singular value that the dtype resolves to 1."""


@dataclass(frozen=True, kw_only=True)
class QDWH(Oracle):
    r"""Rational steps whose weights follow the smallest singular value.

    .. math::
        X \leftarrow X(aI + bX^\top X)(I + cX^\top X)^{-1}

    The weights (a, b, c) make the step the best of its kind for singular values in [l, 1], and
    send l to :math:`l(a + bl^2)/(1 + cl^2)`, from which the next weights come. With l0 near the
    resolution of the dtype, 5 steps suffice in float32 and 6 in float64, whatever the condition
    number.

    A step is computed from the QR decomposition of :math:`[\sqrt cX^\top; I]` while c > 100, and
    from the Cholesky decomposition of :math:`I + cXX^\top` after, which is cheaper.

    Source: Nakatsukasa, Bai, Gygi, "Optimizing Halley's iteration for computing the matrix polar
    decomposition" (2010); PolarGrad, arXiv 2505.21799, section 2.

    Null directions are not left at zero: singular values at the level of rounding are above l0, or
    not far below, and grow to order 1. On rank-deficient input use ``adaptive``, ``eigh`` or
    ``svd``.

    Attributes:
        steps: number of iterations; ``None`` is 5 in float32 and 6 in float64. Two from the
            default l0 do almost nothing for small singular values.
        lower_bound: l0, what is known of the smallest singular value over the Frobenius norm;
            ``None`` is the resolution of the dtype. Smaller values than l0 are not brought to 1.
        dtype: ``torch.float32`` (default) or ``torch.float64`` (default for float64 input).
    """

    name: ClassVar[str] = "qdwh"
    decomposes: ClassVar[bool] = True
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float64, torch.float32)
    row_shards: ClassVar[bool] = False

    steps: int | None = None
    lower_bound: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        valid = self.steps is None or is_count(self.steps)
        require(valid, "steps", "None or an integer >= 1", self.steps)
        bound = self.lower_bound
        valid = bound is None or (is_real(bound) and 1e-20 <= bound <= 1)
        require(valid, "lower_bound", "None or a number between 1e-20 and 1", bound)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        for a, b, c in self._weights(x.dtype):
            step = qr_step if c > QR_ABOVE else cholesky_step
            x = step(x, a, b, c)
        return x

    def _weights(self, dtype: torch.dtype) -> list[tuple[float, float, float]]:
        low = torch.finfo(dtype).eps if self.lower_bound is None else self.lower_bound
        weights = []
        for _ in range(self.steps or SOLUTION[dtype]):
            a, b, c = halley_weights(low)
            low = min(1.0, low * (a + b * low**2) / (1 + c * low**2))
            weights.append((a, b, c))
        return weights

    def _flops(self, m: int, n: int) -> int:
        weights = self._weights(self.dtype or torch.float32)
        return sum(step_flops(m, n, qr=c > QR_ABOVE) for _, _, c in weights)

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        return torch.float32


def halley_weights(low: float) -> tuple[float, float, float]:
    """Return the weights (a, b, c) that are optimal for singular values in ``[low, 1]``."""
    d = (4 * max(0.0, 1 - low**2) / low**4) ** (1 / 3)
    root = math.sqrt(1 + d)
    a = root + math.sqrt(8 - 4 * d + 8 * (2 - low**2) / (low**2 * root)) / 2
    b = (a - 1) ** 2 / 4
    return a, b, a + b - 1


Weight = float | Tensor
"""One for all matrices of a batch, or ``[..., 1, 1]``."""


def qr_step(x: Tensor, a: Weight, b: Weight, c: Weight) -> Tensor:
    """Take one step from a QR decomposition: stable for every c.

    Args:
        x: wide matrices ``[..., m, n]``.
        a: weight.
        b: weight.
        c: weight.
    """
    m, n = x.shape[-2:]
    identity = torch.eye(m, dtype=x.dtype, device=x.device).expand(*x.shape[:-1], m)
    q, _ = torch.linalg.qr(torch.cat([c**0.5 * x.mT, identity], dim=-2))
    upper, lower = q[..., :n, :], q[..., n:, :]
    return b / c * x + (a - b / c) / c**0.5 * (lower @ upper.mT)


def cholesky_step(x: Tensor, a: float, b: float, c: float) -> Tensor:
    """Take one step from a Cholesky decomposition; see :func:`qr_step`."""
    identity = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    factor, _ = torch.linalg.cholesky_ex(identity + c * (x @ x.mT))
    return b / c * x + (a - b / c) * torch.cholesky_solve(x, factor)


def step_flops(m: int, n: int, qr: bool) -> int:
    """Count the floating-point operations of a step on one ``m x n`` matrix, m <= n, estimated."""
    if qr:
        # Householder: the factor R, as much again for Q, and the product of Q's two halves.
        return 4 * m * m * (n + m) - 4 * m**3 // 3 + 2 * m * m * n
    return 2 * m * m * n + m**3 // 3 + 2 * m * m * n
