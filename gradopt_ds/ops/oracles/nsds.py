"""NSDS: SWAN's whitening with the matrices of the iteration reduced to their diagonals."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.oracles.coupled_newton_schulz import check_steps_and_beta
from gradopt_ds.ops.oracles.oracle import Oracle, gram


@dataclass(frozen=True, kw_only=True)
class NSDS(Oracle):
    r""":class:`CoupledNewtonSchulz` with diagonals substituted in its products.

    .. math::
        Y = XX^\top,\ Z = I; \qquad
        Y \leftarrow \beta Y(3I - D_ZD_Y),\quad Z \leftarrow \beta(3I - D_ZY)D_Z; \qquad W = ZX

    with :math:`D_Y` and :math:`D_Z` the diagonals of Y and Z. The steps cost no product of
    matrices at all; the whole costs one Gram matrix and one product, a fifth of Newton-Schulz-5.

    This is no polar factor. It only damps the largest singular values, and relies on the rows
    having one norm, which SWAN's GradNorm gives them; its scale means nothing, and SWAN divides it
    out. Of the symmetries, rotations of the columns remain and rotations of the rows do not. Do
    not use it where a polar factor is meant (PolarGrad, Muon).

    Source: SWAN, arXiv 2412.13148, the fast variant of GradWhitening; the paper leaves the details
    open, and the settings here are those of independent implementations.

    Attributes:
        steps: number of iterations k.
        beta: step size.
    """

    name: ClassVar[str] = "nsds"

    steps: int = 2
    beta: float = 0.4

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_steps_and_beta(self.steps, self.beta)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        y = gram(x, across)
        identity = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        z = identity.expand_as(y)
        for _ in range(self.steps):
            diagonal_y, diagonal_z = (matrices.diagonal(dim1=-2, dim2=-1) for matrices in (y, z))
            z = self.beta * (3 * identity - diagonal_z[..., :, None] * y)
            z = z * diagonal_z[..., None, :]
            y = self.beta * y * (3 - diagonal_z * diagonal_y)[..., None, :]
        return z @ x

    def _flops(self, m: int, n: int) -> int:
        return 4 * m * m * n
