"""Scaling to norm 1."""

import math

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import WHOLE, RowShards

Dims = int | tuple[int, int]


def norm(x: Tensor, order: float, dim: Dims, across: RowShards = WHOLE) -> Tensor:
    """Compute the vector norm of rows or matrices, with ``dim`` kept as 1.

    Args:
        x: a floating tensor, not empty along ``dim``.
        order: 2 for the Frobenius norm, ``inf`` for the largest entry.
        dim: the dimensions that the norm is taken over.
        across: where other parts of what the norm is taken over are.
    """
    here: Tensor = torch.linalg.vector_norm(x, order, dim=dim, keepdim=True)
    if across is WHOLE:
        return here
    return across.max(here) if order == math.inf else across.sum(here.square()).sqrt()


def unit(x: Tensor, order: float, dim: Dims, across: RowShards = WHOLE) -> Tensor:
    """Divide rows or matrices by their vector norm; zero stays zero.

    Args:
        x: a floating tensor, not empty along ``dim``.
        order: 2 for the Frobenius norm, ``inf`` for the largest entry.
        dim: the dimensions that the norm is taken over.
        across: see :func:`norm`.

    Returns:
        A new tensor of the shape and dtype of ``x``.
    """
    size = norm(x, order, dim, across)
    return x / size.masked_fill(size == 0, 1)
