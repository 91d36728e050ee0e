"""Sequence parallelism: the ranks of a group hold parts of the same sequences.

Every rank has all weights, so nothing but the group changes: ZeRO cuts over data × sequence ranks
(DeepSpeed's ``seq_data_parallel_group``, which its wrappers keep as ``dp_process_group``). What
DeepSpeed makes of the gradients of one sequence's ranks depends on the stage, and with it what
loss a rank must return.

Source: deepspeed/runtime/zero/stage3.py (``__avg_scatter_grads``) and
comm/coalesced_collectives.py (``reduce_scatter_coalesced``), release 0.19.8.
"""

from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils.bwc import (
    bwc_pipeline_parallel_world_size,
    bwc_tensor_model_parallel_world_size,
)


def is_sequence_unit(mpu: Any) -> bool:
    """Tell whether a model-parallel unit stands for sequence parallelism alone.

    Args:
        mpu: as passed to ``deepspeed.initialize``: DeepSpeed's own, which ``UlyssesSPAttentionHF``
            returns and Accelerate passes on, or one like Megatron's with the same groups.

    Returns:
        False also if its sequence and data ranks together are not all ranks.
    """
    if not hasattr(mpu, "get_sequence_parallel_world_size") or not hasattr(
        mpu, "get_sequence_data_parallel_group"
    ):
        return False
    if dist.get_world_size(mpu.get_sequence_data_parallel_group()) != dist.get_world_size():
        return False
    # DeepSpeed's own answers with its sequence ranks where it is asked for model-parallel ones.
    return _is_deepspeeds_own(mpu) or (
        bwc_tensor_model_parallel_world_size(mpu) == 1
        and bwc_pipeline_parallel_world_size(mpu) == 1
    )


def lacks_sequence_groups(engine: Any) -> bool:
    """Tell whether an engine has sequence parallelism from the JSON, or a mesh, and not the mpu.

    DeepSpeed then makes no groups, or reduces gradients over the data-parallel ranks alone.
    """
    config = engine._config._param_dict
    in_json = int(config.get("sequence_parallel_size") or 1)
    size = max(engine.sequence_parallel_size, in_json)
    return size > 1 and (
        engine.mpu is None
        or "data_parallel_size" in config
        or in_json not in (1, engine.sequence_parallel_size)
    )


def fails_in_the_norm(engine: Any) -> bool:
    """Tell whether DeepSpeed's BF16_Optimizer is to work with DeepSpeed's own sequence unit.

    It takes the sequence ranks for model-parallel ones, and all but the first have no gradient to
    take the norm of: they end in an error, and the first one waits.
    """
    return (
        _is_deepspeeds_own(engine.mpu)
        and engine.zero_optimization_stage() == 1
        and engine.get_data_types() == (torch.bfloat16, torch.float32)
    )


def leaves_sequences_apart(engine: Any) -> bool:
    """Tell whether stage 3 is to cut weights by the data-parallel group of a unit like Megatron's.

    Gradients are then reduced over that group alone, and not over the ranks of a sequence.
    """
    return bool(
        engine.sequence_parallel_size > 1
        and engine.zero_optimization_partition_weights()
        and hasattr(engine.mpu, "get_data_parallel_group")
    )


def mixes_sums_and_means(engine: Any) -> bool:
    """Tell whether stage 3 is to add some gradients of one sequence's ranks up and average others.

    Without reduce-scatter it adds them up; a parameter larger than a bucket is averaged.
    """
    return bool(
        engine.sequence_parallel_size > 1
        and engine.zero_optimization_partition_weights()
        and not engine.zero_reduce_scatter()
    )


def required_loss(engine: Any) -> str:
    """Return a sentence for the log: with which loss a rank gets the gradients of one process.

    DeepSpeed adds the gradients of a sequence's ranks up, and averages over the data-parallel ranks
    alone, except in stage 3's reduce-scatter, which divides by the number of all ranks.
    """
    does, loss = (
        ("averages", "the mean over the whole sequence, gathered from its ranks")
        if engine.zero_optimization_partition_weights()
        else ("adds up", "its own part of the mean over the whole sequence")
    )
    return (
        f"sequence parallelism over {engine.sequence_parallel_size} ranks: here DeepSpeed {does} "
        f"the gradients of the ranks of a sequence, so every rank must return {loss} "
        "(docs/parallelism.md)"
    )


def _is_deepspeeds_own(mpu: Any) -> bool:
    return hasattr(mpu, "initialize_sequence_parallel")
