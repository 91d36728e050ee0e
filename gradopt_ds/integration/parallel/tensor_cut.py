"""How tensor parallelism has cut one parameter, and the matrices in it. Plain data."""

from dataclasses import dataclass

from gradopt_ds.matrices import Block


@dataclass(frozen=True)
class TensorCut:
    """What the tensor-parallel ranks have of one parameter: shards, or copies.

    Attributes:
        shape: of the whole parameter.
        axis: the dimension that is cut; None if every rank has a copy.
        widths: for each sub-parameter (queries, keys and values, say), one after the other along
            ``axis``, what each rank has of it. A shard is its rank's parts of all of them.

    Raises:
        ValueError: the widths do not add up to the parameter, or it is neither vector nor matrix.
    """

    shape: tuple[int, ...]
    axis: int | None = None
    widths: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.axis is None:
            return
        if len(self.shape) > 2 or self.axis not in range(len(self.shape)):
            raise ValueError(f"shape {self.shape} is cut along dimension {self.axis}")
        if (total := sum(map(sum, self.widths))) != self.shape[self.axis]:
            raise ValueError(
                f"shards of {self.widths} add up to {total} along dimension {self.axis} of shape "
                f"{self.shape}"
            )

    def held(self, rank: int) -> list[range]:
        """Return what a rank has along the axis, as indices of the whole parameter, in order."""
        ranges, begin = [], 0
        for parts in self.widths:
            start = begin + sum(parts[:rank])
            ranges.append(range(start, start + parts[rank]))
            begin += sum(parts)
        return ranges

    def shard_shape(self, rank: int) -> tuple[int, ...]:
        """Return the shape of what a rank has."""
        if self.axis is None:
            return self.shape
        width = sum(map(len, self.held(rank)))
        return *self.shape[: self.axis], width, *self.shape[self.axis + 1 :]

    def block(self, block: Block, rank: int) -> Block:
        """Return what a rank has of a matrix of the whole parameter, as a block of its shard.

        Args:
            block: rows of the parameter.
            rank: the tensor-parallel one.

        Returns:
            The rank's rows or columns of the matrix, in its order; they may be none.
        """
        if self.axis is None:
            return block
        first = block.offset // block.columns
        if self.axis == 1:
            width = self.shard_shape(rank)[1]
            return Block(first * width, block.rows, width)
        start, stop = (self._rows_before(row, rank) for row in (first, first + block.rows))
        return Block(start * block.columns, stop - start, block.columns)

    def joins_in_order(self, block: Block) -> bool:
        """Tell whether the ranks' parts of a matrix, one after the other, are that matrix.

        They are not if it spans several sub-parameters, of each of which every rank has a part.
        """
        if self.axis is None or len(self.widths) == 1:
            return True
        if self.axis == 1:
            return False
        first, begin = block.offset // block.columns, 0
        for parts in self.widths:
            if begin <= first and first + block.rows <= begin + sum(parts):
                return True
            begin += sum(parts)
        return False

    def _rows_before(self, row: int, rank: int) -> int:
        return sum(max(0, min(rows.stop, row) - rows.start) for rows in self.held(rank))
