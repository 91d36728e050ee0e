"""Newton-Schulz on the small Gram matrix."""

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
from gradopt_ds.ops.oracles.newton_schulz import NewtonSchulz


@dataclass(frozen=True, kw_only=True)
class GramNewtonSchulz(NewtonSchulz):
    r""":class:`NewtonSchulz` that iterates on the ``m x m`` Gram matrix instead of on X.

    The same polynomial, see :func:`~.gram_quintics.apply_gram_quintics`. Square
    matrices have nothing to save and take the plain form.

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
        check_restarts(self.restarts)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        if x.shape[-2] == across.rows(x.mT):
            return super()._iterate(x, eps, across)
        return apply_gram_quintics(x, [self.coefficients] * self.steps, self.restarts, across)

    def _flops(self, m: int, n: int) -> int:
        if m == n:
            return super()._flops(m, n)
        return gram_quintics_flops(m, n, self.steps, self.restarts)

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        return torch.float32 if device.type == "cpu" else torch.float16
