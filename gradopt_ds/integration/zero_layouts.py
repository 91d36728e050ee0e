"""Layout readers: where DeepSpeed's ZeRO wrappers have put which matrix.

Every reader returns one :class:`GroupShard` per parameter group and nothing is taken on trust:
:func:`verify` compares the fp32 slices, which the wrapper has just cut, with the model's weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from gradopt_ds.sharding import Layout, Matrix, contiguous_layout


@dataclass(frozen=True)
class GroupShard:
    """One parameter group as a ZeRO wrapper holds it on this rank.

    Attributes:
        flat: this rank's fp32 slice, the group's only parameter in the base optimizer.
        weights: the model's parameters, in the order of the flat tensor.
        offsets: where each begins in the flat tensor.
        process_group: the ranks over which the group is cut.
    """

    flat: Tensor
    weights: Sequence[Tensor]
    offsets: Sequence[int]
    process_group: dist.ProcessGroup

    def layout(self, names: Mapping[Tensor, str]) -> Layout:
        """The layout of the group's matrices; raises ValueError if one is not 2-D."""
        for weight in self.weights:
            if weight.ndim != 2:
                raise ValueError(f"{names[weight]!r} of shape {tuple(weight.shape)} is no matrix")
        return contiguous_layout(
            [Matrix(names[weight], *weight.shape) for weight in self.weights],
            self.offsets,
            self.flat.numel(),
            dist.get_world_size(self.process_group),
        )


def read_stage_1_and_2(zero: DeepSpeedZeroOptimizer) -> list[GroupShard]:
    """ZeRO 1 and 2.

    The order of the flat tensor is that of ``round_robin_bit16_groups``, with the padding of
    ``parameter_alignment`` in its offsets. ``_hp_mapping`` would not do: with
    ``round_robin_gradients`` DeepSpeed computes it from the order before the reordering.
    """
    return [
        GroupShard(flat, weights, offsets, process_group)
        for flat, weights, offsets, process_group in zip(
            zero.single_partition_of_fp32_groups,
            zero.round_robin_bit16_groups,
            zero.round_robin_bit16_offsets,
            zero.real_dp_process_group,
            strict=True,
        )
    ]


def read_bf16(zero: BF16_Optimizer) -> list[GroupShard]:
    """bf16 weights with fp32 accumulation at stage 1: the group's order, no inner padding."""
    shards = []
    for flat, weights, process_group in zip(
        zero.fp32_groups_flat_partition,
        zero.bf16_groups,
        zero.real_dp_process_group,
        strict=True,
    ):
        sizes = torch.tensor([0, *(weight.numel() for weight in weights)])
        offsets = sizes.cumsum(0)[:-1].tolist()
        shards.append(GroupShard(flat, weights, offsets, process_group))
    return shards


READERS: dict[type, Callable[[Any], list[GroupShard]]] = {
    DeepSpeedZeroOptimizer: read_stage_1_and_2,
    BF16_Optimizer: read_bf16,
}
"""Exact types: a subclass may lay its slices out differently."""


def verify(shard: GroupShard, layout: Layout) -> None:
    """Compare this rank's slice with the weights that the layout says it holds.

    Raises:
        RuntimeError: a piece differs, so the layout is not the one this reader knows.
    """
    rank = dist.get_rank(shard.process_group)
    for weight, matrix, pieces in zip(shard.weights, layout.matrices, layout.pieces, strict=True):
        for piece in pieces:
            if piece.rank != rank:
                continue
            expected = weight.detach().flatten()[piece.in_matrix]
            if not torch.equal(shard.flat.detach()[piece.in_slice], expected.float()):
                raise RuntimeError(
                    f"{matrix.name!r} is not where the layout of this DeepSpeed version should "
                    f"have it on rank {rank}: {piece}. Please report it with your DeepSpeed "
                    "config; training would have updated the wrong elements."
                )
