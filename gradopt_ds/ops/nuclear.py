"""The nuclear norm, from the polar factor."""

import torch
from torch import Tensor


@torch.no_grad()
def nuclear_norm(m: Tensor, u: Tensor) -> Tensor:
    r"""Sum the singular values of M = UH without computing them.

    .. math::
        \|M\|_* = \mathrm{tr}\,H = \langle M, U\rangle

    Source: PolarGrad, arXiv 2505.21799, section 2. As accurate as the polar factor: 5 quintic
    Newton-Schulz steps put it 8 to 19 % low, 5 Polar Express steps within about 1 %.

    Args:
        m: matrices ``[..., m, n]``.
        u: their polar factors ``[..., m, n]``.

    Returns:
        ``[...]``, accumulated in float32 (float64 if one of the two is).
    """
    dtype = torch.promote_types(torch.promote_types(m.dtype, u.dtype), torch.float32)
    return (m.to(dtype) * u.to(dtype)).sum((-2, -1))
