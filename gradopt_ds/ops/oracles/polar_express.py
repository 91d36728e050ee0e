"""Polar Express: at every step the quintic that is best for what is left to do."""

from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import ClassVar

from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.oracles.newton_schulz import Quintic, apply_quintics, quintic_flops
from gradopt_ds.ops.oracles.oracle import Oracle, is_count, is_real, require

OPTIMAL: tuple[Quintic, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
"""Minimax for singular values in [1e-3, 1]."""

LIMIT: Quintic = (1.875, -1.25, 0.375)
"""What the optimal coefficients converge to; it leaves 1 where it is, to third order."""


@dataclass(frozen=True, kw_only=True)
class PolarExpress(Oracle):
    r"""Quintic steps with coefficients that are optimal in the worst case.

    .. math::
        X_0 = \frac{G}{1.01\,\|G\|_F}, \qquad
        X_{k+1} = a_kX_k + b_kX_kX_k^\top X_k + c_k(X_kX_k^\top)^2X_k

    Source: N. Amsel et al., "The Polar Express", arXiv 2505.16932, Algorithm 1. Unlike Muon's
    fixed quintic it converges: 5 steps leave well-conditioned input in about [0.87, 1.13],
    8 steps at 1 to rounding.

    Attributes:
        steps: number of iterations; after the seventh the coefficients stay the same.
        safety: rounding lifts singular values above 1, where the optimal quintics grow fast. Each
            of them is therefore stretched to [0, safety]; the limit is flat there and is left
            alone.
    """

    name: ClassVar[str] = "polar_express"
    start: ClassVar[float] = 1 / 1.01

    steps: int = 5
    safety: float = 1.01

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require(is_count(self.steps), "steps", "an integer >= 1", self.steps)
        valid = is_real(self.safety) and 1 <= self.safety <= 2
        require(valid, "safety", "a number between 1 and 2", self.safety)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        return apply_quintics(x, self._quintics(), across)

    def _quintics(self) -> list[Quintic]:
        s = self.safety
        damped = ((a / s, b / s**3, c / s**5) for a, b, c in OPTIMAL)
        return list(islice(chain(damped, repeat(LIMIT)), self.steps))

    def _flops(self, m: int, n: int) -> int:
        return self.steps * quintic_flops(m, n)
