"""Exchange: flat slices ↔ matrices, put together on one owner or, under gram, row by row."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor

from gradopt_ds.matrices import (
    Arrangement,
    MatrixRule,
    MatrixUpdates,
    RowShards,
    arranged,
    map_equal_shapes,
)
from gradopt_ds.sharding.column_parts import on_parts
from gradopt_ds.sharding.group_shards import GroupShards
from gradopt_ds.sharding.layout import Piece
from gradopt_ds.sharding.plan import Plan, Traffic
from gradopt_ds.sharding.transfer import Transfer, copy_each

Updates = Mapping[int, tuple[Tensor, Tensor]]
"""Index of a matrix → the flattened direction of the shard that is here, and its 0-d scale in
float32, as it travels."""


class Exchange:
    """Applies a rule to the matrices of one flat slice, together with the other ranks.

    Args:
        plan: who puts together what; the same on every rank of the group.
        process_group: the ranks that hold the slices.
        wire_dtype: what pieces and updates travel in.
        device: where to communicate and to compute; slices may lie elsewhere (offloaded).
    """

    def __init__(
        self,
        plan: Plan,
        process_group: dist.ProcessGroup,
        wire_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.plan = plan
        self.process_group = process_group
        self.wire_dtype = wire_dtype
        self.device = torch.device(device)
        self.rank = dist.get_rank(process_group)
        self.local = plan.local(self.rank)
        # What every step would ask for again, for each of its pieces.
        shards = {index: plan.shard(index, self.rank) for index in plan.cut}
        self.shards = {index: shard for index, shard in shards.items() if shard}
        self.traffic = [plan.traffic(self.rank, round_) for round_ in range(len(plan.rounds))]

    def __call__(
        self, param: Tensor, direction: Tensor, rule: MatrixRule
    ) -> Iterator[MatrixUpdates]:
        """Yield the updates of this rank's slice ``param``; every rank must exhaust it.

        While one round is computed, the pieces of the next are on their way, and so are the
        updates of the last.

        Args:
            param: this rank's flat slice.
            direction: what the rule is applied to, laid out like ``param``; it is not written.
            rule: the rule on whole matrices, or on rows of tall ones.
        """
        gathering = self._gather(direction, 0)
        yield from self._local_updates(param, direction, rule)
        returning: Iterator[MatrixUpdates] = iter(())
        for round_, traffic in enumerate(self.traffic):
            shards = self._assemble(direction, round_, gathering)
            gathering = self._gather(direction, round_ + 1)
            updates = self._apply(round_, shards, rule)
            del shards
            yield from returning
            scattering = self._scatter(traffic, updates)
            yield from self._kept_updates(param, traffic, updates)
            del updates
            returning = self._received_updates(param, traffic, scattering)
            del scattering
        yield from returning

    def _local_updates(
        self, param: Tensor, direction: Tensor, rule: MatrixRule
    ) -> Iterator[MatrixUpdates]:
        def on_device(batch: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
            return rule(batch.to(self.device), across)

        matrices = [self._as_rows(direction[p.in_slice], p.matrix) for p in self.local]
        arrangements = [self.plan.layout.matrices[p.matrix].arrangement for p in self.local]
        for batch, directions, scales in map_equal_shapes(matrices, on_device, arrangements):
            pieces = [self.local[index] for index in batch]
            flat = _beside(param, directions.flatten(1))
            yield _updates(param, pieces, flat.unbind(), _beside(param, scales))

    def _gather(self, direction: Tensor, round_: int) -> Transfer | None:
        """Send the pieces of a round to where they are put together; None after the last."""
        if round_ == len(self.traffic):
            return None
        traffic = self.traffic[round_]
        return Transfer.start(
            {rank: [direction[p.in_slice] for p in pieces] for rank, pieces in traffic.to.items()},
            {rank: sum(p.length for p in pieces) for rank, pieces in traffic.from_.items()},
            min(direction.dtype, self.wire_dtype, key=lambda dtype: dtype.itemsize),
            self.device,
            self.process_group,
        )

    def _assemble(
        self, direction: Tensor, round_: int, gathering: Transfer | None
    ) -> dict[int, Tensor]:
        """Return what is put together here in a round: rows, or the parts of cut columns, flat."""
        assert gathering is not None
        traffic = self.traffic[round_]
        shards = {
            index: torch.empty(len(self.shards[index]), dtype=direction.dtype, device=self.device)
            for index in self.plan.rounds[round_]
            if index in self.shards
        }
        copy_each(
            [direction[piece.in_slice] for piece in traffic.kept],
            [shards[piece.matrix][self._in_shard(piece)] for piece in traffic.kept],
        )
        received = gathering.wait()
        copy_each(
            received.split([piece.length for piece in traffic.pieces_from]),
            [shards[piece.matrix][self._in_shard(piece)] for piece in traffic.pieces_from],
        )
        widths = self.plan.layout.widths
        return {i: x if widths(i) else self._as_rows(x, i) for i, x in shards.items()}

    def _apply(self, round_: int, shards: Mapping[int, Tensor], rule: MatrixRule) -> Updates:
        first = self.plan.rounds[round_][0]
        if self.plan.strategies[first] == "gram":
            return self._apply_to_rows(first, shards.get(first), rule)
        alike: dict[tuple[tuple[int, ...], Arrangement | None, bool], list[int]]
        alike = defaultdict(list)
        layout = self.plan.layout
        for index in shards:
            arrangement = layout.matrices[index].arrangement
            alike[layout.widths(index), arrangement, layout.copies(index) > 1].append(index)
        updates: dict[int, tuple[Tensor, Tensor]] = {}
        for (widths, arrangement, copied), indices in alike.items():
            members = [shards[i] for i in indices]
            if widths:
                parts = on_parts(arranged(rule, arrangement), widths)
                batches = map_equal_shapes(members, parts)
            else:
                batches = map_equal_shapes(members, rule, [arrangement] * len(members))
            for batch, directions, scales in batches:
                flat = self._as_received(directions) if copied else directions
                each = zip(flat.flatten(1), scales.float(), strict=True)
                updates.update(zip((indices[i] for i in batch), each, strict=True))
        return updates

    def _as_received(self, directions: Tensor) -> Tensor:
        """Round like what is sent: copies stay equal, those of the owner among them."""
        return directions.to(self.wire_dtype).to(directions.dtype)

    def _apply_to_rows(self, index: int, rows: Tensor | None, rule: MatrixRule) -> Updates:
        matrix = self.plan.layout.matrices[index]
        # A rank without rows takes part in the sums, with a row of zeros.
        here = torch.zeros(1, matrix.columns, device=self.device) if rows is None else rows
        directions, scales = rule(here[None], GroupShards(matrix.rows, self.process_group))
        if self.plan.layout.copies(index) > 1:
            directions = self._as_received(directions)
        return {} if rows is None else {index: (directions.flatten(), scales[0].float())}

    def _scatter(self, traffic: Traffic, updates: Updates) -> Transfer:
        """Send the updates back, each piece followed by the scale of its matrix."""
        # Bit by bit: rounded, it would differ from the scale of the owner's own piece.
        bits = {i: scale.reshape(1).view(self.wire_dtype) for i, (_, scale) in updates.items()}

        def parts(piece: Piece) -> tuple[Tensor, Tensor]:
            return updates[piece.matrix][0][self._in_shard(piece)], bits[piece.matrix]

        return Transfer.start(
            {rank: list(chain(*map(parts, pieces))) for rank, pieces in traffic.updates_of.items()},
            {
                rank: sum(piece.length + self._scale_size for piece in pieces)
                for rank, pieces in traffic.updated_by.items()
            },
            self.wire_dtype,
            self.device,
            self.process_group,
        )

    @property
    def _scale_size(self) -> int:
        return torch.float32.itemsize // self.wire_dtype.itemsize

    def _kept_updates(
        self, param: Tensor, traffic: Traffic, updates: Updates
    ) -> Iterator[MatrixUpdates]:
        if traffic.kept:
            parts = [updates[p.matrix][0][self._in_shard(p)] for p in traffic.kept]
            scales = torch.stack([updates[piece.matrix][1] for piece in traffic.kept])
            directions = [_beside(param, part) for part in parts]
            yield _updates(param, traffic.kept, directions, _beside(param, scales))

    def _received_updates(
        self, param: Tensor, traffic: Traffic, scattering: Transfer
    ) -> Iterator[MatrixUpdates]:
        received = scattering.wait()
        if pieces := traffic.pieces_updated:
            sizes = [size for piece in pieces for size in (piece.length, self._scale_size)]
            scales = torch.cat(received.split(sizes)[1::2]).view(torch.float32)
            directions = _beside(param, received).split(sizes)[::2]
            yield _updates(param, pieces, directions, _beside(param, scales))

    def _in_shard(self, piece: Piece) -> slice:
        start = piece.matrix_start - self.shards[piece.matrix].start
        return slice(start, start + piece.length)

    def _as_rows(self, flat: Tensor, index: int) -> Tensor:
        return flat.view(-1, self.plan.layout.matrices[index].columns)


def _beside(param: Tensor, x: Tensor) -> Tensor:
    return x.to(param.device, torch.promote_types(x.dtype, torch.float32))


def _updates(
    param: Tensor, pieces: Sequence[Piece], directions: Sequence[Tensor], scales: Tensor
) -> MatrixUpdates:
    where = [piece.in_slice for piece in pieces]
    return MatrixUpdates([param] * len(pieces), list(directions), scales, where)
