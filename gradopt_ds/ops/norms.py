"""Scaling to norm 1."""

import torch
from torch import Tensor

Dims = int | tuple[int, int]


def unit(x: Tensor, order: float, dim: Dims) -> Tensor:
    """Divide rows or matrices by their vector norm; zero stays zero.

    Args:
        x: a floating tensor, not empty along ``dim``.
        order: 2 for the Frobenius norm, ``inf`` for the largest entry.
        dim: the dimensions that the norm is taken over.

    Returns:
        A new tensor of the shape and dtype of ``x``.
    """
    norm: Tensor = torch.linalg.vector_norm(x, order, dim=dim, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1)
