"""How ranks share one flattened matrix: cut once by ZeRO, or twice, by tensor parallelism first.

Plain data that does not grow with the number of data-parallel ranks: where a piece begins is
computed, not stored.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar, NamedTuple


class Held(NamedTuple):
    """What one rank holds of a flattened matrix; nothing if ``stop <= start``.

    Attributes:
        start: first element of the matrix.
        stop: one past the last one.
        slice_start: where the first lies in the rank's flat slice.
    """

    start: int
    stop: int
    slice_start: int


@dataclass(frozen=True)
class Cut:
    """How the ranks share one flattened matrix: equal consecutive chunks, one each.

    Rank r holds the elements ``[r * chunk - phase, (r + 1) * chunk - phase)`` of the matrix, as far
    as there are such.

    Attributes:
        chunk: elements from one cut to the next.
        phase: elements before the matrix in the chunk that it begins in, plus the chunks before.
        base: where in each rank's slice its chunk begins.
    """

    chunk: int
    phase: int = 0
    base: int = 0

    copies: ClassVar[int] = 1
    widths: ClassVar[tuple[int, ...]] = ()

    def at(self, offset: int) -> "Cut":
        """Return how what begins ``offset`` elements into the flattened matrix is cut."""
        return replace(self, phase=self.phase + offset)

    def overlapping(self, start: int, stop: int) -> range:
        """Return the ranks that hold elements of ``[start, stop)`` of the matrix."""
        if start >= stop:
            return range(0)
        return range((start + self.phase) // self.chunk, (stop - 1 + self.phase) // self.chunk + 1)

    def held(self, rank: int, numel: int) -> Held:
        """Return what a rank holds of the matrix, which has ``numel`` elements."""
        before = rank * self.chunk - self.phase
        start, stop = max(before, 0), min(before + self.chunk, numel)
        return Held(start, stop, self.base + start - before)


@dataclass(frozen=True)
class Part:
    """What the data-parallel ranks of one tensor-parallel rank hold of a matrix.

    Attributes:
        cut: how they share it.
        start: its first element within the flattened matrix.
        stop: one past its last element.
    """

    cut: Cut
    start: int
    stop: int


@dataclass(frozen=True)
class DoubleCut:
    """How T x D ranks share a matrix that tensor parallelism has cut, or copied, before ZeRO.

    A flattened matrix is here its T parts, each flattened, one after the other. Of a matrix that is
    cut by rows that is the order of its elements; one that is cut by columns is put in shape when
    all parts are there. Copies all begin at its first element.

    Rank d * T + t is data-parallel rank d of tensor-parallel rank t.

    Attributes:
        parts: by tensor-parallel rank.
        copies: how many of the parts are the whole matrix: T of copies, else 1.
        widths: columns of each part, of a matrix that is cut by columns; else empty.
    """

    parts: tuple[Part, ...]
    copies: int = 1
    widths: tuple[int, ...] = ()

    def overlapping(self, start: int, stop: int) -> "Ranks":
        """Return the ranks that hold elements of ``[start, stop)``, of all copies."""
        step = len(self.parts)
        ranges = []
        for column, part in enumerate(self.parts):
            first, last = max(start, part.start), min(stop, part.stop)
            ranks = part.cut.overlapping(first - part.start, last - part.start)
            ranges.append(range(ranks.start * step + column, ranks.stop * step + column, step))
        return Ranks(tuple(filter(None, ranges)))

    def held(self, rank: int, numel: int) -> Held:
        """Return what a rank holds of the matrix (see :meth:`Cut.held`)."""
        data_rank, column = divmod(rank, len(self.parts))
        part = self.parts[column]
        held = part.cut.held(data_rank, part.stop - part.start)
        return Held(held.start + part.start, held.stop + part.start, held.slice_start)


@dataclass(frozen=True)
class Ranks(Collection[int]):
    """Ranks without a table of them.

    Attributes:
        ranges: no two with a rank in common, none empty.
    """

    ranges: tuple[range, ...]

    def __contains__(self, rank: object) -> bool:
        """Tell whether it is one of them."""
        return any(rank in ranks for ranks in self.ranges)

    def __iter__(self) -> Iterator[int]:
        """Go through them, range by range."""
        return chain.from_iterable(self.ranges)

    def __len__(self) -> int:
        """Count them."""
        return sum(map(len, self.ranges))
