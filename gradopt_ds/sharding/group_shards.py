"""Sums and maxima over the rows that the ranks of a group have of one matrix."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class GroupShards:
    """The row shards of a matrix on a process group (see :class:`gradopt_ds.ops.RowShards`).

    Attributes:
        whole_rows: rows of the matrix.
        group: the ranks that have them.
    """

    whole_rows: int
    group: dist.ProcessGroup

    def rows(self, x: Tensor) -> int:
        """Count the rows of the whole matrix."""
        return self.whole_rows

    def sum(self, x: Tensor) -> Tensor:
        """Add up over the ranks, half precision in float32."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def max(self, x: Tensor) -> Tensor:
        """Return the elementwise maximum over the ranks."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def _reduced(self, x: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        total = x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
        dist.all_reduce(total, operation, group=self.group)
        return total.to(x.dtype)
