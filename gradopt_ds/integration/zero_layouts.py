"""Layout reader: where DeepSpeed's ZeRO wrappers have put which matrix.

The wrappers for stages 1 and 2 flatten every parameter group into one tensor, make the model's
weights views of it, and keep an fp32 copy of this rank's part. So a weight's offset in the flat
storage says where it lies, whatever order and padding the options of ZeRO have led to. DeepSpeed's
own ``_hp_mapping`` does not: with ``round_robin_gradients`` it follows the order before reordering.
"""

from collections.abc import Mapping, Sequence
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
        slice: this rank's fp32 slice, the group's only parameter in the base optimizer.
        weights: the model's parameters, views of ``flat``.
        flat: the whole group, flattened, in the model's dtype.
        process_group: the ranks over which the group is cut.
    """

    slice: Tensor
    weights: Sequence[Tensor]
    flat: Tensor
    process_group: dist.ProcessGroup

    def layout(self, names: Mapping[Tensor, str]) -> Layout:
        """The layout of the group's matrices.

        Raises:
            RuntimeError: a weight is no view of the flat tensor.
            ValueError: a weight is not 2-D.
        """
        storage = self.flat.untyped_storage().data_ptr()
        for weight in self.weights:
            if weight.ndim != 2:
                raise ValueError(f"{names[weight]!r} of shape {tuple(weight.shape)} is no matrix")
            if weight.untyped_storage().data_ptr() != storage:
                raise RuntimeError(f"{names[weight]!r} does not lie in its group's flat tensor")
        return contiguous_layout(
            [Matrix(names[weight], *weight.shape) for weight in self.weights],
            [int(w.storage_offset() - self.flat.storage_offset()) for w in self.weights],
            self.slice.numel(),
            dist.get_world_size(self.process_group),
        )


ATTRIBUTES = {
    DeepSpeedZeroOptimizer: (
        "single_partition_of_fp32_groups",
        "bit16_groups",
        "bit16_groups_flat",
    ),
    BF16_Optimizer: ("fp32_groups_flat_partition", "bf16_groups", "bf16_groups_flat"),
}
"""What each wrapper calls its slices, weights and flat tensors. Exact types: a subclass may lay
its slices out differently."""


def read_shards(wrapper: Any) -> list[GroupShard]:
    """The groups of a ZeRO wrapper, in the order of the base optimizer's.

    Raises:
        RuntimeError: the type of the wrapper is unknown.
    """
    if type(wrapper) not in ATTRIBUTES:
        raise RuntimeError(
            f"it is not known how {type(wrapper).__name__} lays out its slices; known are "
            f"{', '.join(known.__name__ for known in ATTRIBUTES)}"
        )
    columns = [getattr(wrapper, attribute) for attribute in ATTRIBUTES[type(wrapper)]]
    groups = zip(*columns, wrapper.real_dp_process_group, strict=True)
    return [GroupShard(*group) for group in groups]


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
            if not torch.equal(shard.slice.detach()[piece.in_slice], expected.float()):
                raise RuntimeError(
                    f"{matrix.name!r} is not where the layout of this DeepSpeed version should "
                    f"have it on rank {rank}: {piece}. Please report it with your DeepSpeed "
                    "config; training would have updated the wrong elements."
                )
