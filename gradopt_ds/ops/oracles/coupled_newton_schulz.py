"""SWAN's whitening: the coupled Newton-Schulz iteration for the inverse square root."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.oracles.oracle import Oracle, gram, is_count, is_real, require

RUN = 5
"""Steps between two Gram matrices. Rounding makes null eigenvalues of Y negative, about -1e-7; the
product ZY multiplies them by up to (3 beta)^2 = 6.75 per step, and at -1 the iteration diverges.
Five steps bring them to 1e-3; then Y is made anew, from ZX."""


def check_steps_and_beta(steps: int, beta: float) -> None:
    """Refuse settings with which SWAN's iteration cannot work.

    Raises:
        ValueError: ``steps`` or ``beta`` is out of range.
    """
    require(is_count(steps), "steps", "an integer >= 1", steps)
    # Below, singular values shrink to 0; above, they change their sign.
    stable = is_real(beta) and 1 / 3 < beta < 3**0.5 / 2
    require(stable, "beta", "a number between 1/3 and 0.866", beta)


@dataclass(frozen=True, kw_only=True)
class CoupledNewtonSchulz(Oracle):
    r"""SWAN's iteration: Z tends to the inverse square root of the Gram matrix.

    .. math::
        Y = XX^\top,\ Z = I; \qquad
        Y \leftarrow \beta Y(3I - ZY),\quad Z \leftarrow \beta(3I - ZY)Z; \qquad W = ZX

    A singular value goes from u to :math:`\beta u(3 - u^2)` per step. At beta = 0.5 that
    converges to 1, in some 20 steps for a condition number of 100. SWAN's 0.8 lifts small values
    faster, and then bounces in about [0.56, 1.6] for ever.

    Source: SWAN, arXiv 2412.13148, section 3 (GradWhitening). Every fifth step starts anew from
    X = ZX, which is the same in exact arithmetic and keeps rank-deficient input from diverging.

    The default dtype is float32 on every device, and half precision is not offered: rounding
    noise in null directions grows by :math:`(3\beta)^k`, 6e3 for the default, from 1e-8 to
    nothing in float32 and from 4e-3 to order 1 in bfloat16. More steps than needed cost accuracy
    on rank-deficient input.

    Attributes:
        steps: number of iterations k.
        beta: step size; singular values move towards sqrt(3 - 1/beta), which is 1 at 0.5.
        dtype: ``torch.float32`` (default) or ``torch.float64`` (default for float64 input).
    """

    name: ClassVar[str] = "coupled_newton_schulz"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float64, torch.float32)

    steps: int = 10
    beta: float = 0.8

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_steps_and_beta(self.steps, self.beta)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        for steps in self._runs():
            x = self._inverse_root(gram(x, across), steps) @ x
        return x

    def _inverse_root(self, y: Tensor, steps: int) -> Tensor:
        """Return the matrix Z after ``steps`` iterations from the Gram matrix ``y``."""
        three = 3 * torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        z = factor = self.beta * (three - y)
        for _ in range(steps - 1):
            y = _symmetric(y @ factor)
            factor = self.beta * (three - z @ y)
            z = _symmetric(factor @ z)
        return z

    def _runs(self) -> Iterator[int]:
        """Return the numbers of steps between two Gram matrices."""
        return (min(RUN, self.steps - done) for done in range(0, self.steps, RUN))

    def _flops(self, m: int, n: int) -> int:
        return sum(4 * m * m * n + (steps - 1) * 6 * m**3 for steps in self._runs())

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        return torch.float32


def _symmetric(x: Tensor) -> Tensor:
    # It is, but for rounding; the skew part is not damped by the iteration and would grow.
    return (x + x.mT) / 2
