"""Layout: which part of which matrix lies where in the ranks' flat slices. Plain data."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Matrix:
    """A whole matrix: its name, for messages, and its shape ``[rows, columns]``."""

    name: str
    rows: int
    columns: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Piece:
    """Consecutive elements of one flattened matrix that one rank holds.

    Attributes:
        matrix: index of the matrix in the layout.
        rank: the holder's rank in the process group.
        matrix_start: first element within the flattened matrix.
        slice_start: first element within the holder's flat slice.
        length: number of elements, never 0.
    """

    matrix: int
    rank: int
    matrix_start: int
    slice_start: int
    length: int

    @property
    def in_matrix(self) -> slice:
        """The elements of the flattened matrix."""
        return slice(self.matrix_start, self.matrix_start + self.length)

    @property
    def in_slice(self) -> slice:
        """The elements of the holder's flat slice."""
        return slice(self.slice_start, self.slice_start + self.length)


@dataclass(frozen=True)
class Layout:
    """The matrices of one parameter group and the pieces that the ranks hold of them.

    Attributes:
        matrices: the matrices, in the same order on every rank.
        pieces: for each matrix its pieces, by position in the matrix.
        slice_size: elements of each rank's flat slice, padding included.
        world_size: number of ranks.

    Raises:
        ValueError: the pieces do not cover a matrix exactly once, or leave a slice.
    """

    matrices: tuple[Matrix, ...]
    pieces: tuple[tuple[Piece, ...], ...]
    slice_size: int
    world_size: int

    def __post_init__(self) -> None:
        for index, (matrix, pieces) in enumerate(zip(self.matrices, self.pieces, strict=True)):
            position = 0
            for piece in pieces:
                fits = 0 <= piece.slice_start <= self.slice_size - piece.length
                if piece.matrix != index or piece.matrix_start != position or not fits:
                    raise ValueError(f"{matrix.name!r}: {piece} does not continue at {position}")
                position += piece.length
            if position != matrix.numel:
                raise ValueError(f"{matrix.name!r}: {position} of {matrix.numel} elements covered")


def contiguous_layout(
    matrices: Sequence[Matrix], offsets: Sequence[int], slice_size: int, world_size: int
) -> Layout:
    """The layout of ZeRO 1 and 2: one flat tensor per group, cut into equal slices.

    Args:
        matrices: the matrices of the group.
        offsets: where each begins in the flat tensor; gaps between them are padding.
        slice_size: elements per rank; rank r holds ``[r * slice_size, (r + 1) * slice_size)``.
        world_size: number of ranks.
    """
    return Layout(
        tuple(matrices),
        tuple(
            tuple(_cut(index, offset, matrix.numel, slice_size))
            for index, (matrix, offset) in enumerate(zip(matrices, offsets, strict=True))
        ),
        slice_size,
        world_size,
    )


def _cut(matrix: int, offset: int, numel: int, slice_size: int) -> list[Piece]:
    pieces = []
    position = offset
    while position < offset + numel:
        rank, slice_start = divmod(position, slice_size)
        length = min(offset + numel - position, slice_size - slice_start)
        pieces.append(Piece(matrix, rank, position - offset, slice_start, length))
        position += length
    return pieces
