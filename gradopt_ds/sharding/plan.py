"""Plan: who puts which matrix together. A pure function of the layout, equal on every rank."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from gradopt_ds.sharding.layout import Layout, Piece


@dataclass(frozen=True)
class Plan:
    """One owner for every matrix of a layout.

    A matrix that lies whole in one rank's slice is *local*: its holder owns it and nothing is
    sent. The others are *cut*: their holders send their pieces to the owner, which applies the
    rule once and sends the pieces of the update back.

    Attributes:
        layout: where the pieces are.
        owners: for each matrix the rank that applies the rule.
    """

    layout: Layout
    owners: tuple[int, ...]

    @cached_property
    def cut(self) -> tuple[int, ...]:
        """Indices of the matrices that lie on more than one rank."""
        return tuple(i for i, pieces in enumerate(self.layout.pieces) if len(pieces) > 1)

    def local(self, rank: int) -> tuple[Piece, ...]:
        """The whole matrices in a rank's slice, one piece each."""
        return tuple(p[0] for p in self.layout.pieces if len(p) == 1 and p[0].rank == rank)

    def owned(self, rank: int) -> tuple[int, ...]:
        """The cut matrices that a rank puts together."""
        return tuple(index for index in self.cut if self.owners[index] == rank)

    def traffic(self, rank: int) -> "Traffic":
        """The pieces of cut matrices that a rank exchanges with the others."""
        to_owner: list[list[Piece]] = [[] for _ in range(self.layout.world_size)]
        from_holder: list[list[Piece]] = [[] for _ in range(self.layout.world_size)]
        for index in self.cut:
            owner = self.owners[index]
            for piece in self.layout.pieces[index]:
                if piece.rank == rank != owner:
                    to_owner[owner].append(piece)
                elif piece.rank != rank == owner:
                    from_holder[piece.rank].append(piece)
        return Traffic(tuple(map(tuple, to_owner)), tuple(map(tuple, from_holder)))

    def digest(self) -> int:
        """63-bit fingerprint, to compare the plans of different ranks."""
        text = repr((self.layout, self.owners))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_plan(layout: Layout, flops: Callable[[int, int], int]) -> Plan:
    """Give each cut matrix to the least loaded of its holders.

    Only holders are candidates: an outsider would have to receive the whole matrix.

    Args:
        layout: where the pieces are.
        flops: cost of the rule for an ``m x n`` matrix.

    Returns:
        The plan; ties go to the holder of the largest piece, then to the lowest rank.
    """
    load = [0] * layout.world_size
    owners = [-1] * len(layout.matrices)
    cost = [flops(matrix.rows, matrix.columns) for matrix in layout.matrices]
    # Local matrices have no choice, so they are counted first; then the costly ones choose.
    order = sorted(range(len(cost)), key=lambda i: (len(layout.pieces[i]) > 1, -cost[i], i))
    for index in order:
        best = min(layout.pieces[index], key=lambda p: (load[p.rank], -p.length, p.rank))
        owners[index] = best.rank
        load[best.rank] += cost[index]
    return Plan(layout, tuple(owners))


@dataclass(frozen=True)
class Traffic:
    """What one rank sends and receives to have cut matrices put together.

    The updates go the opposite way, each piece followed by one element: its matrix's scale.

    Attributes:
        to_owner: for each other rank the pieces held here of matrices that it owns.
        from_holder: for each other rank the pieces it holds of matrices owned here.
    """

    to_owner: tuple[tuple[Piece, ...], ...]
    from_holder: tuple[tuple[Piece, ...], ...]

    @property
    def elements_sent(self) -> int:
        """Elements sent in one step, gathering and scattering together."""
        gathered = sum(piece.length for pieces in self.to_owner for piece in pieces)
        scattered = sum(piece.length + 1 for pieces in self.from_holder for piece in pieces)
        return gathered + scattered
