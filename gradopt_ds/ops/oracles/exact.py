"""Exact polar factors, from decompositions in float64."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.oracles.oracle import Oracle, gram


@dataclass(frozen=True, kw_only=True)
class _Exact(Oracle):
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float64, torch.float32)
    decomposes: ClassVar[bool] = True

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        return torch.float64


@dataclass(frozen=True, kw_only=True)
class SVD(_Exact):
    r"""The polar factor from a singular value decomposition.

    .. math::
        U = P_r Q_r^\top, \qquad r = \#\{i : \sigma_i > \max(m, n)\,\epsilon\,\sigma_1\}

    with float32's epsilon (float64's for float64 input), the cutoff of
    ``torch.linalg.matrix_rank``: what lies below is the input's rounding noise and gets zero, so
    that a rank-deficient gradient has a right answer.

    Source: PolarGrad, arXiv 2505.21799, section 2 (polar decomposition by SVD).

    Attributes:
        dtype: ``torch.float64`` (default) or ``torch.float32``.
    """

    name: ClassVar[str] = "svd"
    row_shards: ClassVar[bool] = False

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        p, sigma, qt = torch.linalg.svd(x, full_matrices=False)
        rtol = x.shape[-1] * max(eps, torch.finfo(x.dtype).eps)
        kept = sigma > rtol * sigma[..., :1]
        polar: Tensor = (p * kept.unsqueeze(-2)) @ qt
        return polar

    def _flops(self, m: int, n: int) -> int:
        # Golub and Van Loan's R-SVD with both thin factors, then their product.
        return 6 * m * m * n + 20 * m**3 + 2 * m * m * n


@dataclass(frozen=True, kw_only=True)
class Eigh(_Exact):
    r"""The polar factor from the eigenvectors of the smaller Gram matrix; cheaper than an SVD.

    .. math::
        GG^\top = P\Lambda P^\top, \qquad U = P_r\Lambda_r^{-1/2}P_r^\top G

    The Gram matrix squares the condition number: rounding moves its eigenvalues by about
    :math:`n\epsilon'\lambda_1`, epsilon' being the compute dtype's. A singular value counts as
    null below :math:`\sigma_1` times the larger of :class:`SVD`'s cutoff and
    :math:`\sqrt{n\epsilon'}`. For float32 input computed in float64 the former is the larger one
    and the two oracles agree on the rank. For float64 input the latter is (3e-7 at n = 500), and
    in float32 it is as high as 8e-3: choose float32 for speed only on well-conditioned input.

    Source: SWAN, arXiv 2412.13148, section 3 (GradWhitening).

    Attributes:
        dtype: ``torch.float64`` (default) or ``torch.float32``.
    """

    name: ClassVar[str] = "eigh"

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        squares, p = torch.linalg.eigh(gram(x, across))
        n = across.rows(x.mT)
        rtol = max((n * eps) ** 2, n * torch.finfo(x.dtype).eps)
        kept = squares > rtol * squares[..., -1:]
        inverse_roots = squares.rsqrt().where(kept, 0)
        polar: Tensor = (p * inverse_roots.unsqueeze(-2)) @ (p.mT @ x)
        return polar

    def _flops(self, m: int, n: int) -> int:
        # The Gram matrix, about 9 m^3 for its eigenvectors, and two products to apply them.
        return 2 * m * m * n + 9 * m**3 + 4 * m * m * n
