"""Newton-Schulz on the small Gram matrix."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from gradopt_ds.ops.newton_schulz import NewtonSchulz
from gradopt_ds.ops.oracle import gram, is_count, require
from gradopt_ds.ops.row_shards import RowShards


@dataclass(frozen=True, kw_only=True)
class GramNewtonSchulz(NewtonSchulz):
    r""":class:`NewtonSchulz` that iterates on the ``m x m`` Gram matrix instead of on X.

    .. math::
        R = XX^\top,\ Q = I; \qquad F = aI + bR + cR^2,\quad Q \leftarrow QF,\quad
        R \leftarrow FRF; \qquad X \leftarrow QX

    The same polynomial in exact arithmetic, with two products of size n per run of steps instead
    of two per step. Rounding errors in the null directions of R grow from step to step, so R is
    made anew from X after the steps in ``restarts``. Square matrices have nothing to save and
    take the plain form.

    Source: Dao-AILab, gram-newton-schulz (2025). Half precision means float16 here, which has
    eight times bfloat16's resolution: R must stay positive semi-definite.

    Attributes:
        steps: number of iterations.
        coefficients: (a, b, c).
        restarts: numbers of steps after which R is made anew; those from ``steps`` on never come.
    """

    name: ClassVar[str] = "gram_newton_schulz"

    restarts: tuple[int, ...] = (2,)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        valid = isinstance(self.restarts, tuple) and all(map(is_count, self.restarts))
        valid = valid and all(a < b for a, b in pairwise(self.restarts))
        require(valid, "restarts", "increasing integers >= 1", self.restarts)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        if x.shape[-2] == across.rows(x.mT):
            return super()._iterate(x, eps, across)
        for steps in self._runs():
            x = self._accumulated(gram(x, across), steps) @ x
        return x

    def _accumulated(self, r: Tensor, steps: int) -> Tensor:
        """The matrix Q by which ``steps`` quintics multiply a matrix with Gram matrix ``r``."""
        a, b, c = self.coefficients
        identity = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
        q = factor = a * identity + b * r + c * (r @ r)
        for _ in range(steps - 1):
            r = factor @ r @ factor
            factor = a * identity + b * r + c * (r @ r)
            q = q @ factor
        return q

    def _runs(self) -> Iterator[int]:
        """Numbers of steps between restarts."""
        bounds = [0, *(r for r in self.restarts if r < self.steps), self.steps]
        return (after - before for before, after in pairwise(bounds))

    def _flops(self, m: int, n: int) -> int:
        if m == n:
            return super()._flops(m, n)
        return sum(4 * m * m * n + (4 * steps - 3) * 2 * m**3 for steps in self._runs())

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        return torch.float32 if device.type == "cpu" else torch.float16
