"""Rows of one tall matrix on several ranks: what a rule has to ask the other ranks for."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class RowShards(Protocol):
    """Sees the whole of a tall matrix whose rows are spread over ranks.

    Most of a rule acts on each row, or from the right on all of them alike, and needs only the
    rows that are here. The rest are sums and maxima over all rows. Every rank makes the same
    requests in the same order.
    """

    def rows(self, x: Tensor) -> int:
        """Count the rows of the whole matrix, of which ``x`` ``[..., m, n]`` has some."""
        ...

    def sum(self, x: Tensor) -> Tensor:
        """Add up what each rank computed from its rows."""
        ...

    def max(self, x: Tensor) -> Tensor:
        """Return the elementwise maximum of what each rank computed from its rows."""
        ...


MatrixRule = Callable[[Tensor, RowShards], tuple[Tensor, Tensor]]
"""``[b, m, n]`` and where rows that are not among the m are → directions ``[b, m, n]`` and one
scale per matrix ``[b]``."""


class Whole:
    """The row shards of a matrix that is not sharded: all rows are here."""

    def rows(self, x: Tensor) -> int:
        """Count the rows of ``x``."""
        return x.shape[-2]

    def sum(self, x: Tensor) -> Tensor:
        """Return ``x``: there is nothing to add."""
        return x

    def max(self, x: Tensor) -> Tensor:
        """Return ``x``: there is nothing to compare with."""
        return x


WHOLE = Whole()
