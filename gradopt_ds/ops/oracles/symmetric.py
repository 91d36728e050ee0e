"""Products of matrices that are known to be symmetric: little more than half needs computing."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

BLOCK = 128
"""Rows of a product that are computed at once: few enough to leave out much of the upper triangle,
enough for the speed of a large product."""

LEAST: Mapping[torch.dtype, int] = {
    torch.float64: 512,
    torch.float32: 512,
    torch.bfloat16: 640,
}
"""Rows from which blocks are faster than the whole product on a CPU; in other dtypes they are not.
Measured on one core (docs/measurements/step.md): float32 and float64 on a Xeon with AVX-512,
bfloat16 on an EPYC that multiplies it natively; where it is emulated, blocks are faster too."""


def symmetric_matmul(
    a: Tensor,
    b: Tensor,
    *,
    scale: float = 1.0,
    plus: Tensor | None = None,
    times: float = 1.0,
    exact: bool = False,
) -> Tensor:
    r"""Compute ``times * plus + scale * a b``; both terms are symmetric, as :math:`XX^\top` is.

    On a CPU the lower triangle is computed in blocks and mirrored, which costs 0.5 to 0.9 of the
    product from ``LEAST`` rows on. Elsewhere, and for fewer rows, it is torch's product.

    Products that are symmetric because their factors commute are computed whole in bfloat16:
    rounded factors hardly commute, and mirroring would raise gram_polar_express's error from 0.46
    to 0.56 (singular values over three decades, 640 x 1376).

    Args:
        a: ``[..., m, k]``.
        b: ``[..., k, m]``, in the same dtype, with the same leading dimensions.
        scale: factor of the product.
        plus: ``[..., m, m]`` to add; None adds nothing.
        times: factor of ``plus``.
        exact: the product is symmetric whatever the factors were rounded to: a Gram matrix, or the
            square of one.

    Returns:
        ``[..., m, m]``, symmetric but for rounding: to the last bit what was mirrored, outside of
        the blocks on the diagonal; within those BLAS may round the two halves differently.
    """
    m = a.shape[-2]
    worthwhile = a.device.type == "cpu" and m >= LEAST.get(a.dtype, math.inf)
    if not worthwhile or not (exact or a.dtype != torch.bfloat16):
        return matmul_plus(a, b, scale=scale, plus=plus, times=times)
    out = a.new_empty(*a.shape[:-1], m)
    # Without a term to add, a factor of 0 has BLAS ignore what the memory holds.
    term, factor = (out, 0.0) if plus is None else (plus, times)
    flat = (matrices.reshape(-1, *matrices.shape[-2:]) for matrices in (out, term, a, b))
    for target, added, left, right in zip(*flat, strict=True):
        for start in range(0, m, BLOCK):
            rows, known = slice(start, start + BLOCK), slice(0, start + BLOCK)
            block = target[rows, known]
            torch.addmm(
                added[rows, known],
                left[rows],
                right[:, known],
                beta=factor,
                alpha=scale,
                out=block,
            )
            target[:start, rows] = block[:, :start].mT
    return out


def matmul_plus(
    a: Tensor, b: Tensor, *, scale: float = 1.0, plus: Tensor | None = None, times: float = 1.0
) -> Tensor:
    """Compute ``times * plus + scale * a b`` in one pass, for any leading dimensions.

    Args:
        a: ``[..., m, k]``.
        b: ``[..., k, n]``, in the same dtype, with the same leading dimensions.
        scale: factor of the product.
        plus: ``[..., m, n]`` to add; None adds nothing.
        times: factor of ``plus``.

    Returns:
        ``[..., m, n]``.
    """
    if plus is None:
        return scale * (a @ b) if scale != 1 else a @ b
    flat = (matrices.reshape(-1, *matrices.shape[-2:]) for matrices in (plus, a, b))
    return torch.baddbmm(*flat, beta=times, alpha=scale).view(plus.shape)
