"""Settings that are refused under tensor parallelism, by name."""

from collections.abc import Callable
from typing import Any

from deepspeed.utils.bwc import bwc_pipeline_parallel_world_size

from gradopt_ds.integration.parallel.tensor import tensor_size

Setting = tuple[str, Callable[[Any], object]]


def _half_precision(engine: Any) -> bool:
    return bool(engine.bfloat16_enabled() or engine.fp16_enabled())


SETTINGS: tuple[Setting, ...] = (
    ("ZeRO stage 3", lambda e: e.zero_optimization_partition_weights()),
    ('"fp16": {"enabled": true}', lambda e: e.fp16_enabled()),
    ('"offload_optimizer"', lambda e: e.zero_offload_optimizer() is not None),
    (
        # FP16_UnfusedOptimizer takes the norm of gradients, which do not carry the marks that
        # DeepSpeed's norm asks for: it counts the shards of tensor-parallel rank 0 alone.
        '"gradient_clipping" at ZeRO stage 0 in half precision',
        lambda e: _half_precision(e) and not e.zero_optimization() and e.gradient_clipping() > 0,
    ),
    (
        '"tensor_parallel": {"tp_overlap_comm": true}',
        lambda e: e.tensor_parallel_config().tp_overlap_comm,
    ),
    (
        # Megatron's sequence parallelism: gradients of copies are to be added up by the script.
        "parameters marked sequence_parallel",
        lambda e: any(getattr(p, "sequence_parallel", False) for p in e.module.parameters()),
    ),
    ("sequence parallelism", lambda e: e.sequence_parallel_size > 1),
    (
        "pipeline parallelism of the mpu (make a PipelineModule)",
        lambda e: bwc_pipeline_parallel_world_size(e.mpu) > 1 and not e.pipeline_parallelism,
    ),
)
"""What a message calls the setting, and whether an engine has it."""


def _with_tensor_parallelism(setting: Setting) -> Setting:
    name, is_set = setting
    return f"tensor parallelism with {name}", lambda e: tensor_size(e) > 1 and is_set(e)


REFUSED: tuple[Setting, ...] = tuple(map(_with_tensor_parallelism, SETTINGS))
"""For :data:`gradopt_ds.integration.unsupported.REFUSED`."""
