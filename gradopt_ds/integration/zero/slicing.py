"""Layout readers: where DeepSpeed's ZeRO wrappers have put which matrix.

Stages 1 and 2 flatten every parameter group into one tensor, make the model's weights views of it,
and keep an fp32 copy of this rank's part. So a weight's offset in the flat storage says where it
lies, whatever order and padding the options of ZeRO have led to. DeepSpeed's own ``_hp_mapping``
does not: with ``round_robin_gradients`` it follows the order before reordering.

Stage 3 cuts every weight into equal chunks, one per rank, and makes one fp32 tensor per sub-group
of this rank's chunks, one after the other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch.distributed as dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor
from torch.optim import Optimizer

from gradopt_ds.optim.facts import whole_shape
from gradopt_ds.sharding import Layout, Matrix, chunked_layout, contiguous_layout


@dataclass(frozen=True)
class ZeroSlice:
    """A flat slice that the base optimizer steps on, and the weights it is made of.

    Attributes:
        group: index of its parameter group.
        tensor: this rank's part, in the dtype of the master weights.
        weights: the model's parameters, in order.
        process_group: the ranks over which the weights are cut.
        make_layout: from the weights, flattened, and the number of ranks, to their layout.
    """

    group: int
    tensor: Tensor
    weights: Sequence[Tensor]
    process_group: dist.ProcessGroup
    make_layout: Callable[..., Layout]

    def layout(self, names: Mapping[Tensor, str]) -> Layout:
        """Make the layout of the weights, each flattened to one row, not of their matrices."""
        rows = [Matrix(names[weight], 1, prod(whole_shape(weight))) for weight in self.weights]
        return self.make_layout(rows, world_size=dist.get_world_size(self.process_group))


def holds_whole(wrapper: Any, optimizer: Optimizer) -> bool:
    """Tell whether every rank holds, and updates, whole parameters: ZeRO stage 0."""
    return wrapper is optimizer or type(wrapper) is FP16_UnfusedOptimizer


def whole_weights(wrapper: Any, optimizer: Optimizer) -> list[tuple[Tensor, Tensor]]:
    """Return, at stage 0, what the base optimizer steps on and the weight that it is."""
    held = [param for group in optimizer.param_groups for param in group["params"]]
    # Half precision: the base optimizer's groups hold fp32 copies.
    is_half = type(wrapper) is FP16_UnfusedOptimizer
    weights = [weight for group in wrapper.fp16_groups for weight in group] if is_half else held
    return list(zip(held, weights, strict=True))


def read_slices(wrapper: Any, optimizer: Optimizer) -> list[ZeroSlice]:
    """Read the slices of a ZeRO wrapper, in the order in which it steps on them.

    Args:
        wrapper: around the base optimizer.
        optimizer: the base optimizer.

    Returns:
        Nothing at stage 0.

    Raises:
        RuntimeError: the type of the wrapper is unknown.
    """
    if holds_whole(wrapper, optimizer):
        return []
    # Exact types: a subclass may lay its slices out differently.
    if type(wrapper) not in READERS:
        raise RuntimeError(
            f"it is not known how {type(wrapper).__name__} lays out its slices; known are "
            f"{', '.join(known.__name__ for known in READERS)}"
        )
    return list(READERS[type(wrapper)](wrapper))


def _stages_1_and_2(wrapper: Any) -> Iterable[ZeroSlice]:
    slices, weights = wrapper.single_partition_of_fp32_groups, wrapper.bit16_groups
    return _flattened(slices, weights, wrapper.bit16_groups_flat, wrapper.real_dp_process_group)


def _bf16_optimizer(wrapper: Any) -> Iterable[ZeroSlice]:
    slices, weights = wrapper.fp32_groups_flat_partition, wrapper.bf16_groups
    return _flattened(slices, weights, wrapper.bf16_groups_flat, wrapper.real_dp_process_group)


def _flattened(*columns: Sequence[Any]) -> Iterable[ZeroSlice]:
    for index, (slice_, weights, flat, group) in enumerate(zip(*columns, strict=True)):
        offsets = [_offset(weight, flat) for weight in weights]
        make_layout = partial(contiguous_layout, offsets=offsets, slice_size=slice_.numel())
        yield ZeroSlice(index, slice_, weights, group, make_layout)


def _offset(weight: Tensor, flat: Tensor) -> int:
    if weight.untyped_storage().data_ptr() != flat.untyped_storage().data_ptr():
        raise RuntimeError(
            f"a weight of shape {tuple(weight.shape)} does not lie in its group's flat tensor"
        )
    return int(weight.storage_offset() - flat.storage_offset())


def _stage_3(wrapper: Any) -> Iterable[ZeroSlice]:
    for index, weights in enumerate(wrapper.fp16_groups):
        chunks = [weight.partition_numel() for weight in weights]
        yield ZeroSlice(
            wrapper.sub_group_to_group_id[index],
            wrapper.fp32_partitioned_groups_flat[index],
            weights,
            wrapper.sub_group_process_groups[index],
            partial(chunked_layout, chunks=chunks),
        )


READERS: Mapping[type, Callable[[Any], Iterable[ZeroSlice]]] = {
    DeepSpeedZeroOptimizer: _stages_1_and_2,
    BF16_Optimizer: _bf16_optimizer,
    DeepSpeedZeroOptimizer_Stage3: _stage_3,
}
