"""Euclidean norms of numbers of any scale."""

import math

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import WHOLE, RowShards

Dims = int | tuple[int, int]


def norm(x: Tensor, dim: Dims, across: RowShards = WHOLE) -> Tensor:
    """Compute the Euclidean norms of rows, columns or matrices, in one pass over them.

    Args:
        x: a floating tensor, not empty along ``dim``.
        dim: the dimensions that a norm is taken over.
        across: where other parts of what it is taken over are.

    Returns:
        In float64, in which no square of a narrower number over- or underflows, with ``dim`` kept
        as 1. What holds NaN or infinity has the norm NaN.
    """
    if x.dtype == torch.float64:
        largest = across.max(torch.linalg.vector_norm(x, math.inf, dim=dim, keepdim=True))
        divisor = largest.masked_fill(largest == 0, 1)
        return largest * _norm(x / divisor, dim, across)
    size = _norm(x, dim, across)
    return size.masked_fill(size.isinf(), math.nan)


def _norm(x: Tensor, dim: Dims, across: RowShards) -> Tensor:
    here: Tensor = torch.linalg.vector_norm(x, 2, dim=dim, keepdim=True, dtype=torch.float64)
    return here if across is WHOLE else across.sum(here.square()).sqrt()


def unit(x: Tensor, dim: Dims, across: RowShards = WHOLE) -> Tensor:
    """Divide rows, columns or matrices by their norm; zero stays zero.

    Args:
        x: a floating tensor, not empty along ``dim``.
        dim: the dimensions that the norm is taken over.
        across: see :func:`norm`.

    Returns:
        A new tensor of the shape and dtype of ``x``.
    """
    size = norm(x, dim, across).to(x.dtype)
    return x / size.masked_fill(size == 0, 1)
