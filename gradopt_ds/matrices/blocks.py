"""Blocks: the matrices that lie in one parameter."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A matrix inside a flattened parameter, its elements one after the other.

    Attributes:
        offset: its first element.
        rows: of the matrix.
        columns: of the matrix.
    """

    offset: int
    rows: int
    columns: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.rows * self.columns

    @property
    def where(self) -> slice:
        """Its elements in the flattened parameter."""
        return slice(self.offset, self.offset + self.numel)
