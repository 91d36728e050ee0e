"""GradNorm: every row to mean 0 and standard deviation 1."""

import math

import torch
from torch import Tensor

from gradopt_ds.ops.norms import norm

ROUNDING = 4
"""Spread of a constant row after centring, in units of the last place of its mean."""


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
    mean = x.mean(-1, keepdim=True)
    x = x - mean
    std = (norm(x, -1) / math.sqrt(x.shape[-1])).to(x.dtype)
    constant = std <= ROUNDING * torch.finfo(x.dtype).eps * mean.abs()
    return x.div_(std.masked_fill(constant, math.inf))
