"""The quintic Newton-Schulz iteration of Muon."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.oracles.oracle import Oracle, gram, is_count, is_real, require
from gradopt_ds.ops.oracles.symmetric import matmul_plus, symmetric_matmul

Quintic = tuple[float, float, float]
"""Coefficients (a, b, c) of the odd polynomial ``a x + b x^3 + c x^5``."""

MUON: Quintic = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, kw_only=True)
class NewtonSchulz(Oracle):
    r"""Muon's iteration: one quintic, again and again.

    .. math::
        X \leftarrow aX + bXX^\top X + c(XX^\top)^2X

    Source: K. Jordan et al., "Muon: an optimizer for hidden layers" (2024). The default
    coefficients trade accuracy for a steep start: singular values end in about [0.68, 1.13]
    instead of at 1, and stay there however many steps follow.

    With c = 0 a step is the cubic :math:`X \leftarrow aX + bXX^\top X` and costs no product of
    the Gram matrix with itself: (1.5, -0.5, 0) is the classical iteration, which converges, and
    (3 beta, -beta, 0) is SWAN's, in the form that does not couple two matrices.

    Attributes:
        steps: number of iterations.
        coefficients: (a, b, c).
    """

    name: ClassVar[str] = "newton_schulz"

    steps: int = 5
    coefficients: Quintic = MUON

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require(is_count(self.steps), "steps", "an integer >= 1", self.steps)
        valid = isinstance(self.coefficients, tuple) and len(self.coefficients) == 3
        valid = valid and all(is_real(c) for c in self.coefficients)
        require(valid, "coefficients", "three finite numbers (a, b, c)", self.coefficients)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        return apply_quintics(x, [self.coefficients] * self.steps, across)

    def _flops(self, m: int, n: int) -> int:
        per_step = quintic_flops(m, n) if self.coefficients[2] else 4 * m * m * n
        return self.steps * per_step


def apply_quintics(x: Tensor, quintics: Iterable[Quintic], across: RowShards) -> Tensor:
    """Apply one polynomial after the other to the singular values.

    Args:
        x: wide matrices ``[..., m, n]``, m <= n.
        quintics: the coefficients of each step.
        across: where the columns of ``x`` are.

    Returns:
        ``[..., m, n]`` in the dtype of ``x``.
    """
    for a, b, c in quintics:
        r = gram(x, across)
        factor = symmetric_matmul(r, r, scale=c, plus=r, times=b, exact=True) if c else b * r
        x = matmul_plus(factor, x, plus=x, times=a)
    return x


def quintic_flops(m: int, n: int) -> int:
    """Count the floating-point operations of one polynomial on one ``m x n`` matrix, m <= n."""
    return 4 * m * m * n + 2 * m**3
