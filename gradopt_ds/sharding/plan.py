"""Plan: who puts which matrix together. A pure function of the layout, equal on every rank."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from gradopt_ds.matrices.exchange_settings import Strategy
from gradopt_ds.sharding.layout import Layout, Piece

COPIES = 12
"""Buffers as large as the matrices of a round that exist at a time, at most. Six of the exchange:
what is sent and received for the next round, what is being worked on, its updates, and what is
sent and received of the last round's updates. The rule itself has up to six more."""

ELEMENT_BYTES = 4

SCALE_BYTES = 4
"""A matrix's scale travels in fp32 whatever the wire dtype: rounded, it would differ from the
owner's."""


@dataclass(frozen=True)
class Plan:
    """Who applies the rule to which matrix of a layout, and when.

    A matrix that lies whole in one rank's slice is *local*: its holder has it, nothing is sent. The
    others are cut. With strategy *owner* one rank puts the matrix together and applies the rule;
    with *gram* each holder completes the rows that begin in its slice, and the rule is applied to
    the rows where they are, with all-reduces of the small Gram matrix.

    Attributes:
        layout: where the pieces are.
        strategies: for each matrix how it is put together.
        owners: for each matrix the rank that applies the rule; -1 with strategy gram. Of copies,
            that on its tensor-parallel rank is put together; with gram, that on the one whose
            number is the matrix's, modulo their number.
        rounds: the cut matrices, in the order in which they are exchanged; those of a round
            travel together, and a gram matrix alone.
        flops: for each rank its work, by the oracle's count.
    """

    layout: Layout
    strategies: tuple[Strategy, ...]
    owners: tuple[int, ...]
    rounds: tuple[tuple[int, ...], ...]
    flops: tuple[int, ...]

    @cached_property
    def cut(self) -> tuple[int, ...]:
        """Indices of the matrices that lie on more than one rank."""
        return tuple(i for i, strategy in enumerate(self.strategies) if strategy != "local")

    def count(self, strategy: Strategy) -> int:
        """Count the matrices that are put together in this way."""
        return self.strategies.count(strategy)

    def local(self, rank: int) -> tuple[Piece, ...]:
        """Return the whole matrices in a rank's slice, one piece each."""
        pieces = (
            self.layout.piece(index, rank)
            for index, strategy in enumerate(self.strategies)
            if strategy == "local" and self.owners[index] == rank
        )
        return tuple(piece for piece in pieces if piece is not None)

    def shard(self, matrix: int, rank: int) -> range:
        """Return which elements of a flattened matrix a rank puts together: whole rows, or none."""
        if self.strategies[matrix] != "gram":
            numel = self.layout.matrices[matrix].numel
            return range(numel if self.owners[matrix] == rank else 0)
        piece = self.layout.piece(matrix, rank)
        if piece is None or not self.gathers_from(matrix, rank):
            return range(0)
        columns = self.layout.matrices[matrix].columns
        first, stop = (-(-at // columns) for at in (piece.matrix_start, piece.matrix_stop))
        return range(first * columns, stop * columns)

    def gathers_from(self, matrix: int, rank: int) -> bool:
        """Tell whether what a rank holds of a matrix is put together; of copies only one is."""
        chosen = matrix if (owner := self.owners[matrix]) < 0 else owner
        return self.layout.same_copy(matrix, rank, chosen)

    def traffic(self, rank: int, round_: int) -> "Traffic":
        """Return what a rank exchanges in a round, and what it keeps."""
        here: dict[int, list[Piece]] = defaultdict(list)
        elsewhere: dict[int, list[Piece]] = defaultdict(list)
        kept = []
        for index in self.rounds[round_]:
            if piece := self.layout.piece(index, rank):
                for other in self._assemblers(piece):
                    if part := _overlap(piece, self.shard(index, other)):
                        kept.append(part) if other == rank else here[other].append(part)
            if shard := self.shard(index, rank):
                for other in self.layout.overlapping(index, shard.start, shard.stop):
                    part = _overlap(self.layout.piece(index, other), shard)
                    if part and other != rank:
                        elsewhere[other].append(part)
        return Traffic(
            self._gathered(here), self._gathered(elsewhere), tuple(kept), here, elsewhere
        )

    def _gathered(self, pieces: dict[int, list[Piece]]) -> Mapping[int, list[Piece]]:
        """Return those of the pieces that are sent to be put together."""
        every = [piece for theirs in pieces.values() for piece in theirs]
        if all(self.layout.copies(piece.matrix) == 1 for piece in every):
            return pieces
        chosen = {
            other: [piece for piece in theirs if self.gathers_from(piece.matrix, piece.rank)]
            for other, theirs in pieces.items()
        }
        return {other: theirs for other, theirs in chosen.items() if theirs}

    def bytes_sent(self, rank: int, wire: int = 4, slices: int = 4) -> int:
        """Count the bytes that a rank sends in a step: pieces, updates, one fp32 scale per update.

        Of a matrix with ``mn`` elements, ``own`` of them in the owner's slice and the others in k
        pieces, all ranks send ``min(wire, slices) * (mn - own) + wire * (mn - own) + 4 * k``. Of T
        copies, k counts the pieces of all and the middle term becomes ``wire * (T * mn - own)``.
        With gram the same holds with what ranks have of the rows that they put together as ``own``;
        the all-reduces are not counted.

        Args:
            rank: of the layout.
            wire: bytes of an element in the wire dtype.
            slices: bytes of an element of the slices; pieces never travel wider than they are.
        """
        rounds = [self.traffic(rank, round_) for round_ in range(len(self.rounds))]
        return sum(traffic.bytes_sent(wire, slices) for traffic in rounds)

    def peak_bytes(self, rank: int) -> int:
        """Count the bytes that exchange and rule occupy on a rank at their peak, at most."""
        busiest = max(
            (self.traffic(rank, round_).elements_held for round_ in range(len(self.rounds))),
            default=0,
        )
        return COPIES * ELEMENT_BYTES * busiest

    def digest(self) -> int:
        """Compute a 63-bit fingerprint, to compare the plans of different ranks."""
        text = repr((self.layout, self.strategies, self.owners, self.rounds))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def _assemblers(self, piece: Piece) -> Collection[int]:
        """Return the ranks among which are those whose shards overlap a piece."""
        if (owner := self.owners[piece.matrix]) >= 0:
            return range(owner, owner + 1)
        columns = self.layout.matrices[piece.matrix].columns
        first_row_start = piece.matrix_start // columns * columns
        return self.layout.overlapping(piece.matrix, first_row_start, piece.matrix_stop)


@dataclass(frozen=True)
class Traffic:
    """What one rank exchanges with the others in one round.

    First the pieces of what the rule is applied to, then, the opposite way, their updates, each
    followed by its matrix's scale in fp32. Updates also go to the copies that were not gathered.

    Attributes:
        to: other rank → the pieces held here that it puts together.
        from_: other rank → the pieces it holds that are put together here.
        kept: the pieces that are held and put together here.
        updated_by: other rank → the pieces held here whose updates it sends.
        updates_of: other rank → the pieces it holds whose updates are sent to it.
    """

    to: Mapping[int, list[Piece]]
    from_: Mapping[int, list[Piece]]
    kept: tuple[Piece, ...]
    updated_by: Mapping[int, list[Piece]]
    updates_of: Mapping[int, list[Piece]]

    @cached_property
    def sent(self) -> int:
        """Elements of gradients or momentum sent."""
        return _elements(self.to)

    @cached_property
    def received(self) -> int:
        """Elements of gradients or momentum received."""
        return _elements(self.from_)

    def bytes_sent(self, wire: int, slices: int) -> int:
        """Count the bytes of pieces, updates and scales (see :meth:`Plan.bytes_sent`)."""
        scales = sum(map(len, self.updates_of.values()))
        updates = _elements(self.updates_of)
        return self.sent * min(wire, slices) + updates * wire + scales * SCALE_BYTES

    @cached_property
    def pieces_from(self) -> tuple[Piece, ...]:
        """The pieces received, in order of the other ranks, as they lie in a buffer."""
        return _in_order(self.from_)

    @cached_property
    def pieces_updated(self) -> tuple[Piece, ...]:
        """The pieces whose updates are received, in order of the other ranks, as in a buffer."""
        return _in_order(self.updated_by)

    @property
    def elements_held(self) -> int:
        """Elements of the largest buffer of the round."""
        assembled = self.received + sum(piece.length for piece in self.kept)
        return max(self.sent, assembled, _elements(self.updated_by), _elements(self.updates_of))


def _elements(pieces: Mapping[int, list[Piece]]) -> int:
    return sum(piece.length for theirs in pieces.values() for piece in theirs)


def _in_order(pieces: Mapping[int, list[Piece]]) -> tuple[Piece, ...]:
    return tuple(piece for rank in sorted(pieces) for piece in pieces[rank])


def _overlap(piece: Piece | None, shard: range) -> Piece | None:
    if piece is None or max(piece.matrix_start, shard.start) >= min(piece.matrix_stop, shard.stop):
        return None
    return piece.part(shard.start, shard.stop)
