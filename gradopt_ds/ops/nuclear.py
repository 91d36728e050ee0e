"""The nuclear norm, from the polar factor."""

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import WHOLE, RowShards


@torch.no_grad()
def nuclear_norm(m: Tensor, u: Tensor, across: RowShards = WHOLE) -> Tensor:
    r"""Sum the singular values of M = UH without computing them.

    .. math::
        \|M\|_* = \mathrm{tr}\,H = \langle M, U\rangle

    Source: PolarGrad, arXiv 2505.21799, section 2. As accurate as the polar factor: 5 quintic
    Newton-Schulz steps put it 8 to 19 % low, 5 Polar Express steps within about 1 %.

    Args:
        m: matrices ``[..., m, n]``.
        u: their polar factors ``[..., m, n]``.
        across: where the other rows are, when these are only some of a tall matrix's.

    Returns:
        ``[...]``, accumulated in float32 (float64 if one of the two is).
    """
    dtype = torch.promote_types(torch.promote_types(m.dtype, u.dtype), torch.float32)
    return across.sum((m.to(dtype) * u.to(dtype)).sum((-2, -1)))
