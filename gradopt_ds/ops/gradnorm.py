"""GradNorm: every row to mean 0 and standard deviation 1."""

import math

import torch
from torch import Tensor

from gradopt_ds.ops.norms import unit

ROUNDING = 4
"""Spread of a constant row after centring, in units of the last place of its largest entry."""


@torch.no_grad()
def grad_norm(g: Tensor) -> Tensor:
    r"""Normalise the rows of gradients.

    .. math::
        \hat G_{i,:} = (G_{i,:} - \bar g_i) / s_i

    with the mean and the biased standard deviation of row i. Source: SWAN, arXiv 2412.13148,
    section 3 (GradNorm). A row that is zero, or constant up to rounding, has nothing to
    normalise and becomes zero: padding and dead units must not turn into noise of full strength.

    Args:
        g: gradients ``[..., m, n]`` of any floating dtype and scale.

    Returns:
        ``[..., m, n]`` in float32 (float64 for float64). Rows that are not finite become NaN.
    """
    x = g.to(torch.promote_types(g.dtype, torch.float32))
    if x.numel() == 0:
        return x
    # Squares of 1e-30 vanish and squares of 1e30 overflow; ratios to the largest entry do not.
    x = unit(x, math.inf, dim=-1)
    x = x - x.mean(-1, keepdim=True)
    std = x.square().mean(-1, keepdim=True).sqrt()
    return (x / std).masked_fill(std <= ROUNDING * torch.finfo(x.dtype).eps, 0)
