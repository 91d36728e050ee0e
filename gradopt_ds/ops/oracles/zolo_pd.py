"""ZOLO-PD: the polar factor in two steps, from Zolotarev's rational functions."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import mpmath
import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.oracles.oracle import Oracle, is_count, is_real, require
from gradopt_ds.ops.oracles.qdwh import QR_ABOVE, step_flops

DIGITS = 50
"""Decimal digits of the elliptic functions. Their arguments come within 1e-16 of a quarter period,
where float64 has no correct digit left."""


@dataclass(frozen=True)
class Zolotarev:
    r"""The function of type (2r+1, 2r) closest to 1 on [low, 1], as partial fractions.

    .. math::
        f(x) = s\,\Bigl(x + \sum_j \frac{a_j x}{x^2 + c_j}\Bigr), \qquad f(1) = 1

    Attributes:
        scale: s.
        residues: the r numbers a.
        poles: the r numbers c, increasing.
        lowest: f(low), the smallest value on [low, 1].
    """

    scale: float
    residues: tuple[float, ...]
    poles: tuple[float, ...]
    lowest: float


@dataclass(frozen=True, kw_only=True)
class ZoloPD(Oracle):
    r"""Two iterations, each with the rational function that is closest to 1 on a known interval.

    Each iteration applies a Zolotarev function of type (2r+1, 2r), made for the interval in which
    the singular values then lie. Two of them are a function of type ((2r+1)^2, (2r+1)^2 - 1); with
    r = 8 that is enough for any matrix of full rank in float64.

    An iteration is a sum of r terms. Each needs a decomposition of its own: QR, or Cholesky where
    1 / c is at most 100, as in QDWH's steps. The r decompositions are independent of one another,
    so they can run side by side: ZOLO-PD does more work than QDWH, in fewer steps that must wait
    for one another.

    Source: Nakatsukasa and Freund, "Computing fundamental matrix decompositions accurately via the
    matrix sign function in two iterations" (2016), section 4; PolarGrad, arXiv 2505.21799.

    Not for rank-deficient input: singular values at the level of rounding grow to order 1.

    Attributes:
        degree: r.
        steps: number of iterations.
        lower_bound: what is known of the smallest singular value over the Frobenius norm.
        dtype: ``torch.float64``, also for input below.
    """

    name: ClassVar[str] = "zolo_pd"
    decomposes: ClassVar[bool] = True
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float64,)
    row_shards: ClassVar[bool] = False

    degree: int = 8
    steps: int = 2
    lower_bound: float = 1e-15

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        valid = is_count(self.degree) and self.degree <= 16
        require(valid, "degree", "an integer from 1 to 16", self.degree)
        require(is_count(self.steps), "steps", "an integer >= 1", self.steps)
        valid = is_real(self.lower_bound) and 1e-20 <= self.lower_bound < 1
        require(valid, "lower_bound", "a number from 1e-20 to below 1", self.lower_bound)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        for function in self._functions():
            terms = sum(
                a * _resolvent(x, c) for a, c in zip(function.residues, function.poles, strict=True)
            )
            x = function.scale * (x + terms)
        return x

    def _functions(self) -> list[Zolotarev]:
        functions = []
        low = self.lower_bound
        for _ in range(self.steps):
            functions.append(zolotarev(low, self.degree))
            # Two steps end within rounding of 1, where the functions have no more to do.
            low = min(functions[-1].lowest, 1 - 1e-12)
        return functions

    def _flops(self, m: int, n: int) -> int:
        return sum(
            step_flops(m, n, qr=1 / c > QR_ABOVE) for f in self._functions() for c in f.poles
        )

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        return torch.float64


@functools.cache
def zolotarev(low: float, degree: int) -> Zolotarev:
    """Return the function for singular values in ``[low, 1]``, 0 < low < 1."""
    with mpmath.workdps(DIGITS):
        complement = 1 - mpmath.mpf(low) ** 2  # the parameter m = k^2 of the elliptic functions
        quarter = mpmath.ellipk(complement)
        nodes = []
        for i in range(1, 2 * degree + 1):
            u = i * quarter / (2 * degree + 1)
            ratio = mpmath.ellipfun("sn", u, m=complement) / mpmath.ellipfun("cn", u, m=complement)
            nodes.append(mpmath.mpf(low) ** 2 * ratio**2)
        poles, zeros = nodes[::2], nodes[1::2]
        residues = []
        for j, pole in enumerate(poles):
            others = [pole - other for i, other in enumerate(poles) if i != j]
            residues.append(-mpmath.fprod(pole - zero for zero in zeros) / mpmath.fprod(others))
        pairs = list(zip(poles, zeros, strict=True))
        scale = mpmath.fprod((1 + pole) / (1 + zero) for pole, zero in pairs)
        square = mpmath.mpf(low) ** 2
        lowest = scale * low * mpmath.fprod((square + z) / (square + p) for p, z in pairs)
        return Zolotarev(
            float(scale), tuple(map(float, residues)), tuple(map(float, poles)), float(lowest)
        )


def _resolvent(x: Tensor, c: float) -> Tensor:
    """Compute ``(x x^T + c I)^{-1} x`` of wide matrices ``[..., m, n]``."""
    m, n = x.shape[-2:]
    identity = torch.eye(m, dtype=x.dtype, device=x.device)
    if 1 / c > QR_ABOVE:
        stacked = torch.cat([x.mT, c**0.5 * identity.expand(*x.shape[:-1], m)], dim=-2)
        q, _ = torch.linalg.qr(stacked)
        return q[..., n:, :] @ q[..., :n, :].mT / c**0.5
    factor, _ = torch.linalg.cholesky_ex(x @ x.mT + c * identity)
    return torch.cholesky_solve(x, factor)
