"""Parameters that a step's forward passes did not use: their gradient is zero.

DeepSpeed keeps gradients in buffers that outlive the step: at stage 3 this rank's part of every
gradient, with offload the fp32 gradients in the host's memory too. A backward pass writes the
parameters that it reached, and the others are not cleared: they step on the gradient of an earlier
step, which also counts in the gradient norm, and a later micro-batch adds to it. With offload,
what an earlier micro-batch alone has written is not handed over when the step is due.
"""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor


def clear_unwritten_gradients(wrapper: Any) -> None:
    """Let every backward pass end with zeros where no pass since the last step has written.

    Args:
        wrapper: of ZeRO; those that make new gradients for every step are left alone.
    """
    complete = COMPLETE.get(type(wrapper))
    if complete is None or (type(wrapper) is DeepSpeedZeroOptimizer and not wrapper.cpu_offload):
        return
    finish_backward = wrapper.independent_gradient_partition_epilogue

    def finish_backward_and_clear() -> None:
        finish_backward()
        complete(wrapper)

    wrapper.independent_gradient_partition_epilogue = finish_backward_and_clear


def _complete_stage_3(wrapper: Any) -> None:
    written = wrapper._offload_boundary_param_ids
    norms = wrapper.norm_for_param_grads if wrapper.offload_optimizer else {}
    buffers = gradient_partitions(wrapper)
    stale, is_left_behind = [], False
    for param in chain.from_iterable(wrapper.fp16_groups):
        id_ = wrapper.get_param_id(param)
        if param.ds_id in written:
            is_left_behind |= id_ not in norms
            continue
        stale.append(buffers[param.ds_id])
        if wrapper.offload_optimizer:
            group, start, size = wrapper.grad_position[id_]
            stale.append(wrapper.fp32_partitioned_groups_flat[group].grad.narrow(0, start, size))
    zero(stale)
    if is_left_behind and wrapper.offload_optimizer and wrapper.is_gradient_accumulation_boundary():
        wrapper._finalize_offload_gradient_accumulation()


def _complete_offloaded_slices(wrapper: Any) -> None:
    accumulated, norms = wrapper._offload_accumulated_param_ids, wrapper.norm_for_param_grads
    stale = []
    for param in chain.from_iterable(wrapper.params_in_partition):
        id_ = wrapper.get_param_id(param)
        if id_ in accumulated or id_ in norms:
            continue
        group, _, start, size = wrapper.grad_position[id_]
        stale.append(wrapper.single_partition_of_fp32_groups[group].grad.narrow(0, start, size))
        if id_ in wrapper.accumulated_grads_in_cpu:
            stale.append(wrapper.accumulated_grads_in_cpu[id_])
    zero(stale)
    if accumulated - norms.keys() and wrapper.is_gradient_accumulation_boundary():
        wrapper._finalize_cpu_offload_gradient_accumulation()


def gradient_partitions(wrapper: Any) -> Mapping[int, Tensor]:
    """Return stage 3's buffers: ``ds_id`` of a parameter → this rank's part of its gradient."""
    buffers: Mapping[int, Tensor] = (
        wrapper._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition
    )
    return buffers


def zero(gradients: list[Tensor]) -> None:
    """Write zeros into each."""
    if gradients:
        with torch.no_grad():
            torch._foreach_zero_(gradients)


COMPLETE: Mapping[type, Callable[[Any], None]] = {
    DeepSpeedZeroOptimizer_Stage3: _complete_stage_3,
    DeepSpeedZeroOptimizer: _complete_offloaded_slices,
}
"""What each wrapper leaves undone at the end of a backward pass. BF16_Optimizer clears its own."""
