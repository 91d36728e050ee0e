"""Exchange: flat slices ↔ whole matrices, each put together on its one owner."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gradopt_ds.ops import MatrixRule, MatrixUpdate, map_equal_shapes
from gradopt_ds.sharding.plan import Plan


class Exchange:
    """Applies a rule to the matrices of one flat slice, together with the other ranks.

    Args:
        plan: who owns what; the same on every rank of the group.
        process_group: the ranks that hold the slices.
    """

    def __init__(self, plan: Plan, process_group: dist.ProcessGroup) -> None:
        rank = dist.get_rank(process_group)
        self.plan = plan
        self.process_group = process_group
        self.local = plan.local(rank)
        self.owned = plan.owned(rank)
        self.traffic = plan.traffic(rank)
        self.own_pieces = tuple(
            piece
            for index in self.owned
            for piece in plan.layout.pieces[index]
            if piece.rank == rank
        )

    def __call__(
        self, param: Tensor, direction: Tensor, rule: MatrixRule
    ) -> Iterator[MatrixUpdate]:
        """Yield the updates of this rank's slice ``param``; every rank must exhaust it.

        Args:
            param: this rank's flat slice.
            direction: what the rule is applied to, laid out like ``param``; it is not written.
            rule: the batched rule on whole matrices.
        """
        gathering = self._start_gathering(direction) if self.plan.cut else None
        whole = [self._as_matrix(direction[piece.in_slice], piece.matrix) for piece in self.local]
        # The pieces of cut matrices travel while the whole ones are computed.
        for index, update, scale in map_equal_shapes(whole, rule):
            yield MatrixUpdate(param, update.flatten(), scale, self.local[index].in_slice)
        if gathering is None:
            return
        matrices = self._assemble(direction, gathering.wait())
        updates: dict[int, tuple[Tensor, Tensor]] = {}
        for index, update, scale in map_equal_shapes(matrices, rule):
            updates[self.owned[index]] = (update.flatten(), scale)
        scattering = self._start_scattering(updates, direction)
        for piece in self.own_pieces:
            update, scale = updates[piece.matrix]
            yield MatrixUpdate(param, update[piece.in_matrix], scale, piece.in_slice)
        for pieces, received in zip(self.traffic.to_owner, scattering.wait(), strict=True):
            parts = received.split([size for piece in pieces for size in (piece.length, 1)])
            for piece, update, scale in zip(pieces, parts[::2], parts[1::2], strict=True):
                yield MatrixUpdate(param, update, scale[0], piece.in_slice)

    def _start_gathering(self, direction: Tensor) -> "_Transfer":
        outgoing = [
            [direction[piece.in_slice] for piece in pieces] for pieces in self.traffic.to_owner
        ]
        incoming = [sum(p.length for p in pieces) for pieces in self.traffic.from_holder]
        return _Transfer.start(outgoing, incoming, direction, self.process_group)

    def _assemble(self, direction: Tensor, received: Sequence[Tensor]) -> list[Tensor]:
        matrices = self.plan.layout.matrices
        flat = {index: direction.new_empty(matrices[index].numel) for index in self.owned}
        for piece in self.own_pieces:
            flat[piece.matrix][piece.in_matrix] = direction[piece.in_slice]
        for pieces, buffer in zip(self.traffic.from_holder, received, strict=True):
            parts = buffer.split([piece.length for piece in pieces])
            for piece, part in zip(pieces, parts, strict=True):
                flat[piece.matrix][piece.in_matrix] = part
        return [self._as_matrix(flat[index], index) for index in self.owned]

    def _start_scattering(
        self, updates: Mapping[int, tuple[Tensor, Tensor]], direction: Tensor
    ) -> "_Transfer":
        outgoing = []
        for pieces in self.traffic.from_holder:
            parts = []
            for piece in pieces:
                update, scale = updates[piece.matrix]
                parts += [update[piece.in_matrix], scale.reshape(1)]
            outgoing.append(parts)
        incoming = [sum(p.length + 1 for p in pieces) for pieces in self.traffic.to_owner]
        # The dtype that rules return, known also to a rank that owned nothing and computed none.
        like = direction.new_empty(0, dtype=torch.promote_types(direction.dtype, torch.float32))
        return _Transfer.start(outgoing, incoming, like, self.process_group)

    def _as_matrix(self, flat: Tensor, index: int) -> Tensor:
        matrix = self.plan.layout.matrices[index]
        return flat.view(matrix.rows, matrix.columns)


@dataclass(frozen=True)
class _Transfer:
    """An all-to-all in flight; ``outgoing`` must live until it has arrived."""

    work: dist.Work
    outgoing: Tensor
    incoming: Tensor
    sizes: list[int]

    @classmethod
    def start(
        cls,
        outgoing: Sequence[Sequence[Tensor]],
        incoming: list[int],
        like: Tensor,
        group: dist.ProcessGroup,
    ) -> "_Transfer":
        parts = [part.to(like.dtype) for parts in outgoing for part in parts]
        send = torch.cat(parts) if parts else like.new_empty(0)
        receive = like.new_empty(sum(incoming))
        sizes = [sum(part.numel() for part in parts) for parts in outgoing]
        work = dist.all_to_all_single(receive, send, incoming, sizes, group=group, async_op=True)
        assert work is not None
        return cls(work, send, receive, incoming)

    def wait(self) -> tuple[Tensor, ...]:
        self.work.wait()
        return self.incoming.split(self.sizes)


class ShardedMatrixMap:
    """The matrix map under ZeRO: every parameter is a flat slice with an exchange of its own.

    Args:
        exchanges: flat slice → its exchange.
    """

    def __init__(self, exchanges: Mapping[Tensor, Exchange]) -> None:
        self.exchanges = dict(exchanges)

    def __call__(
        self, params: Sequence[Tensor], directions: Sequence[Tensor], rule: MatrixRule
    ) -> Iterator[MatrixUpdate]:
        """Yield the updates of this rank's slices (see :class:`gradopt_ds.ops.MatrixMap`).

        Raises:
            RuntimeError: a parameter is not one of the slices whose layout is known.
        """
        for param, direction in zip(params, directions, strict=True):
            if param not in self.exchanges:
                raise RuntimeError(
                    f"no layout is known for a flat slice of {param.numel()} elements: parameter "
                    "groups must not be added or replaced after deepspeed.initialize"
                )
            yield from self.exchanges[param](param, direction, rule)
