"""SWAN's direction: GradNorm, GradWhitening, rescaling."""

import math

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import WHOLE, RowShards
from gradopt_ds.ops.gradnorm import grad_norm
from gradopt_ds.ops.norms import norm
from gradopt_ds.ops.oracles.oracle import Oracle


@torch.no_grad()
def whitened(g: Tensor, oracle: Oracle, across: RowShards = WHOLE) -> tuple[Tensor, Tensor]:
    """Normalise and whiten gradients; see :func:`swan_direction`, of which these are the factors.

    Args:
        g: gradients ``[..., m, n]``.
        oracle: computes the polar factor.
        across: where the other rows are.

    Returns:
        W ``[..., m, n]`` and the factors sqrt(mn) / norm of W ``[...]``, in one dtype; the factor
        of a matrix without a norm is sqrt(mn).
    """
    w = oracle(grad_norm(g), across)
    size = norm(w, (-2, -1), across)[..., 0, 0]
    size = size.masked_fill(size == 0, 1)
    return w, (math.sqrt(across.rows(g) * g.shape[-1]) / size).to(w.dtype)


@torch.no_grad()
def swan_direction(g: Tensor, oracle: Oracle, across: RowShards = WHOLE) -> Tensor:
    r"""Normalise, whiten and rescale gradients.

    .. math::
        \hat G = \mathrm{GradNorm}(G),\quad W = (\hat G\hat G^\top)^{-1/2}\hat G,\quad
        \Delta = \frac{\sqrt{mn}}{\|W\|_F}\,W

    Source: SWAN, arXiv 2412.13148, Algorithm 1. Whitening gives the polar factor, for m > n that
    from the right. The rows of the normalised gradient sum to zero, so a matrix with m >= n
    always has a null direction: the oracle must cope with rank-deficient input.

    Args:
        g: gradients ``[..., m, n]`` of any floating dtype and scale.
        oracle: computes the polar factor.
        across: where the other rows are, when ``g`` has only some of a tall matrix's.

    Returns:
        ``[..., m, n]`` of Frobenius norm sqrt(mn) in float32 (float64 for float64); zero
        gradients give zeros.
    """
    w, factors = whitened(g, oracle, across)
    return w * factors[..., None, None]
