"""``engine.optimizer.zero_grad()`` between two backward passes: what was accumulated is discarded.

DeepSpeed's own clears the model's gradients, and has by then put them into buffers: at stage 3 the
next pass overwrites those that it writes and leaves the others; at stage 2, and with offload, it
goes on adding to them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID, DeepSpeedZeroOptimizer

from gradopt_ds.integration.zero.unwritten_gradients import (
    gradient_partitions,
    zero,
)


def discard_on_zero_grad(wrapper: Any) -> None:
    """Let ``zero_grad`` discard all that the backward passes since the last step have left.

    Args:
        wrapper: of ZeRO; others discard by themselves.
    """
    discard = DISCARD.get(type(wrapper))
    if discard is None:
        return
    zero_grad = wrapper.zero_grad

    def zero_grad_and_discard(set_to_none: bool = True) -> None:
        zero_grad(set_to_none)
        discard(wrapper)

    wrapper.zero_grad = zero_grad_and_discard


def _discard_at_stage_3(wrapper: Any) -> None:
    # Empty after a step, when DeepSpeed calls `zero_grad` itself.
    if not (written := wrapper._offload_boundary_param_ids):
        return
    zero([gradient_partitions(wrapper)[id_] for id_ in written])
    written.clear()
    if wrapper.offload_optimizer:
        zero([flat.grad for flat in wrapper.fp32_partitioned_groups_flat])
        wrapper.reset_cpu_buffers()


def _discard_slices(wrapper: Any) -> None:
    for group in wrapper.all_grad_tensors:
        wrapper.all_grad_tensors[group] = None
    zero([gradient for group in wrapper.averaged_gradients.values() for gradient in group or ()])
    if wrapper.cpu_offload and (
        wrapper._offload_accumulated_param_ids or wrapper.norm_for_param_grads
    ):
        zero([flat.grad for flat in wrapper.single_partition_of_fp32_groups])
        wrapper._offload_accumulated_param_ids.clear()
        wrapper.micro_step_id = INITIAL_MICRO_STEP_ID
        wrapper.reset_cpu_buffers()


DISCARD: Mapping[type, Callable[[Any], None]] = {
    DeepSpeedZeroOptimizer_Stage3: _discard_at_stage_3,
    DeepSpeedZeroOptimizer: _discard_slices,
}
"""What each wrapper keeps. BF16_Optimizer clears its own."""
