"""Blocks: the matrices that lie in one parameter."""

from dataclasses import dataclass

from torch import Tensor

from gradopt_ds.matrices.arrangement import Arrangement


@dataclass(frozen=True)
class Block:
    """Consecutive elements of a flattened parameter: one matrix, or several that are interwoven.

    Attributes:
        offset: its first element.
        rows: of the elements as they are stored.
        columns: of the elements as they are stored.
        arrangement: which matrices these are; ``None`` if the block as stored is the matrix.

    Raises:
        ValueError: the arrangement does not fit the rows and columns.
    """

    offset: int
    rows: int
    columns: int
    arrangement: Arrangement | None = None

    def __post_init__(self) -> None:
        if self.arrangement is not None:
            self.arrangement.shapes(self.rows, self.columns)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.rows * self.columns

    @property
    def where(self) -> slice:
        """Its elements in the flattened parameter."""
        return slice(self.offset, self.offset + self.numel)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Outputs and inputs of each matrix in it."""
        if self.arrangement is None:
            return ((self.rows, self.columns),)
        return self.arrangement.shapes(self.rows, self.columns)

    def matrices(self, flat: Tensor) -> list[Tensor]:
        """Return each matrix ``[outputs, inputs]``; a copy where its rows do not lie together.

        Args:
            flat: a flattened parameter, or what is laid out like it.
        """
        stored = flat[self.where].view(self.rows, self.columns)
        if self.arrangement is None:
            return [stored]
        return [view.flatten(0, 1) for view in self.arrangement.views(stored)]
