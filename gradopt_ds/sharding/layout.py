"""Layout: which part of which matrix lies where in the ranks' flat slices. Plain data."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from gradopt_ds.matrices import Arrangement, Block
from gradopt_ds.sharding.cut import Cut, DoubleCut


@dataclass(frozen=True)
class Matrix:
    """A whole matrix of shape ``[rows, columns]``, or several that are interwoven.

    Attributes:
        name: of the parameter that it is, or that it lies in.
        rows: of the matrix, as it is stored.
        columns: of the matrix, as it is stored.
        arrangement: of the matrices, where there are several, or one is stored transposed.
    """

    name: str
    rows: int
    columns: int
    arrangement: Arrangement | None = None

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes that the rule sees."""
        return Block(0, self.rows, self.columns, self.arrangement).shapes

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Piece:
    """Consecutive elements of one flattened matrix that one rank holds.

    Under tensor parallelism a flattened matrix is its parts (see :class:`DoubleCut`).

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
    def matrix_stop(self) -> int:
        """One past the last element within the flattened matrix."""
        return self.matrix_start + self.length

    @property
    def in_slice(self) -> slice:
        """The elements of the holder's flat slice."""
        return slice(self.slice_start, self.slice_start + self.length)

    def part(self, start: int, stop: int) -> "Piece":
        """Return the part that lies in ``[start, stop)`` of the matrix; it must not be empty."""
        first, last = max(start, self.matrix_start), min(stop, self.matrix_stop)
        offset = first - self.matrix_start
        return Piece(self.matrix, self.rank, first, self.slice_start + offset, last - first)


@dataclass(frozen=True)
class Layout:
    """The matrices of one flat slice per rank, and how the ranks share them.

    Attributes:
        matrices: the matrices, in the same order on every rank.
        cuts: for each matrix how it is shared.
        slice_size: elements of each rank's flat slice, padding included; of the largest, where
            tensor-parallel ranks have slices of different sizes.
        world_size: number of ranks.

    Raises:
        ValueError: a matrix reaches past the last rank, or a piece past the end of a slice.
    """

    matrices: tuple[Matrix, ...]
    cuts: tuple[Cut | DoubleCut, ...]
    slice_size: int
    world_size: int

    def __post_init__(self) -> None:
        for index, cut in enumerate(self.cuts):
            if isinstance(cut, Cut):  # what is cut twice is made of layouts that have been checked
                self._check(index, cut)

    def _check(self, index: int, cut: Cut) -> None:
        matrix = self.matrices[index]
        if not (holders := cut.overlapping(0, matrix.numel)):
            return
        if holders.start < 0 or holders.stop > self.world_size:
            raise ValueError(f"{matrix.name!r} is cut over ranks {holders}: they do not exist")
        for rank in {holders.start, min(holders.start + 1, holders[-1]), holders[-1]}:
            piece = self.piece(index, rank)
            if piece and (piece.slice_start < 0 or piece.in_slice.stop > self.slice_size):
                raise ValueError(f"{matrix.name!r}: {piece} leaves its slice")

    def split(self, blocks: Mapping[str, Sequence[Block]]) -> "Layout":
        """Make the layout of the matrices that lie in these ones.

        Args:
            blocks: name of a matrix of this layout → what it is made of, instead of itself.

        Raises:
            ValueError: tensor parallelism has cut the matrices.
        """
        cuts = [cut for cut in self.cuts if isinstance(cut, Cut)]
        if len(cuts) < len(self.cuts):
            raise ValueError("split the layouts of the tensor-parallel ranks before joining them")
        parts = [
            (Matrix(matrix.name, b.rows, b.columns, b.arrangement), cut.at(b.offset))
            for matrix, cut in zip(self.matrices, cuts, strict=True)
            for b in blocks.get(matrix.name, [Block(0, matrix.rows, matrix.columns)])
        ]
        return replace(
            self,
            matrices=tuple(matrix for matrix, _ in parts),
            cuts=tuple(cut for _, cut in parts),
        )

    def copies(self, matrix: int) -> int:
        """Count the copies of a matrix, one on each tensor-parallel rank; 1 if there is but one."""
        return self.cuts[matrix].copies

    def same_copy(self, matrix: int, rank: int, other: int) -> bool:
        """Tell whether two ranks are those of one copy; always, if there is but one."""
        return (rank - other) % self.copies(matrix) == 0

    def widths(self, matrix: int) -> tuple[int, ...]:
        """Return the columns of each part of a matrix cut by columns, as :class:`DoubleCut` has."""
        return self.cuts[matrix].widths

    def holders(self, matrix: int) -> Collection[int]:
        """Return the ranks that hold elements of a matrix."""
        return self.overlapping(matrix, 0, self.matrices[matrix].numel)

    def overlapping(self, matrix: int, start: int, stop: int) -> Collection[int]:
        """Return the ranks that hold elements of ``[start, stop)`` of a matrix."""
        return self.cuts[matrix].overlapping(start, stop)

    def piece(self, matrix: int, rank: int) -> Piece | None:
        """Return what a rank holds of a matrix; None if nothing."""
        start, stop, slice_start = self.cuts[matrix].held(rank, self.matrices[matrix].numel)
        return Piece(matrix, rank, start, slice_start, stop - start) if start < stop else None

    def pieces(self, matrix: int) -> Iterator[Piece]:
        """Return the pieces of a matrix, by position; of copies all pieces of the first first."""
        pieces = (self.piece(matrix, rank) for rank in self.holders(matrix))
        return (piece for piece in pieces if piece is not None)


def contiguous_layout(
    matrices: Sequence[Matrix], offsets: Sequence[int], slice_size: int, world_size: int
) -> Layout:
    """Make the layout of ZeRO 1 and 2: one flat tensor per group, cut into equal slices.

    Args:
        matrices: the matrices of the group.
        offsets: where each begins in the flat tensor; gaps between them are padding.
        slice_size: elements per rank; rank r holds ``[r * slice_size, (r + 1) * slice_size)``.
        world_size: number of ranks.
    """
    cuts = tuple(Cut(slice_size, phase=offset) for offset in offsets)
    return Layout(tuple(matrices), cuts, slice_size, world_size)


def chunked_layout(matrices: Sequence[Matrix], chunks: Sequence[int], world_size: int) -> Layout:
    """Make the layout of ZeRO 3: a slice has one of the equal chunks of every matrix.

    Args:
        matrices: the matrices of the sub-group.
        chunks: elements of each matrix per rank, padding included.
        world_size: number of ranks.
    """
    *bases, slice_size = accumulate(chunks, initial=0)
    cuts = tuple(Cut(chunk, base=base) for chunk, base in zip(chunks, bases, strict=True))
    return Layout(tuple(matrices), cuts, slice_size, world_size)
