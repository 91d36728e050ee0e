"""SinkGD's direction: rows and columns brought to their norms in turn."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.norms import unit
from gradopt_ds.ops.oracles.oracle import Oracle, is_count, require


@dataclass(frozen=True, kw_only=True)
class AlternatingNorms(Oracle):
    r"""Scales rows, then columns, again and again, until both have the norms of a matrix of ones.

    .. math::
        X \leftarrow \sqrt n\,D_r^{-1}X,\qquad X \leftarrow \sqrt m\,XD_c^{-1}

    with the diagonal matrices of the row norms and of the column norms. Source: SinkGD,
    arXiv 2502.06742, Algorithm 1. After the last step the columns have their norm exactly, hence
    the matrix the Frobenius norm sqrt(mn), and the rows nearly. Zero rows and columns stay zero.

    This is no polar factor, and so it has no name in the registry. It keeps every other promise of
    an oracle (scale, zeros, NaN, row shards, a cost for the planner) and stands in an oracle's
    place in :class:`gradopt_ds.SinkGD`.

    Attributes:
        iterations: L.
        dtype: ``torch.float32`` (default) or ``torch.float64`` (default for float64 input).
    """

    name: ClassVar[str] = "alternating_norms"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float64, torch.float32)
    sees_wide: ClassVar[bool] = False

    iterations: int = 5

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require(is_count(self.iterations), "iterations", "an integer >= 1", self.iterations)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        for _ in range(self.iterations):
            x = unit(x, -1).mul_(math.sqrt(x.shape[-1]))
            x = unit(x, -2, across).mul_(math.sqrt(across.rows(x)))
        return x

    def _flops(self, m: int, n: int) -> int:
        # Elementwise work is all there is: a square, a sum, a product, by rows and by columns.
        return 6 * self.iterations * m * n

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        return torch.float32
