"""Polar Express on the small Gram matrix."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.oracles.gram_quintics import (
    apply_gram_quintics,
    check_restarts,
    gram_quintics_flops,
)
from gradopt_ds.ops.oracles.polar_express import PolarExpress


@dataclass(frozen=True, kw_only=True)
class GramPolarExpress(PolarExpress):
    r""":class:`PolarExpress` that iterates on the ``m x m`` Gram matrix instead of on X.

    The same polynomials, see :func:`~.gram_quintics.apply_gram_quintics`. Square
    matrices have nothing to save and take the plain form.

    Source: Dao-AILab, gram-newton-schulz (2025), with the coefficients of arXiv 2505.16932. Half
    precision means float16 here, as in :class:`GramNewtonSchulz`. The Gram matrix carries more
    rounding than X does, hence the larger safety factor.

    Attributes:
        steps: number of iterations.
        safety: see :class:`PolarExpress`.
        restarts: numbers of steps after which R is made anew; those from ``steps`` on never come.
            5 steps meet one of the default's, 8 steps all three.
    """

    name: ClassVar[str] = "gram_polar_express"

    safety: float = 1.05
    restarts: tuple[int, ...] = (2, 5, 7)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_restarts(self.restarts)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        if x.shape[-2] == across.rows(x.mT):
            return super()._iterate(x, eps, across)
        return apply_gram_quintics(x, self._quintics(), self.restarts, across)

    def _flops(self, m: int, n: int) -> int:
        if m == n:
            return super()._flops(m, n)
        return gram_quintics_flops(m, n, self.steps, self.restarts)

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        return torch.float32 if device.type == "cpu" else torch.float16
