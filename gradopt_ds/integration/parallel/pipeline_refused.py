"""Settings with pipeline stages under which the optimizers would not do what their name says."""

from collections.abc import Callable
from typing import Any

import torch
from deepspeed.runtime.pipe.dualpipev import DualPipeVModule
from deepspeed.runtime.pipe.module import PipelineModule

from gradopt_ds.optim import MatrixOptimizer, base_of

ACCUMULATED = (
    (torch.float32, torch.float32),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
)
"""Types of weights, and of the gradients that are accumulated for them."""


def _makes_matrices_of_its_own(engine: Any) -> bool:
    optimizer = engine.client_optimizer
    return callable(optimizer) or isinstance(base_of(optimizer), MatrixOptimizer)


REFUSED_WITH_PIPELINE: tuple[tuple[str, Callable[[Any], object]], ...] = (
    ("a DualPipeVModule", lambda e: isinstance(e.module, DualPipeVModule)),
    (
        # In fp16 a stage with fewer parameter groups than others waits for ever. In bf16 the state
        # is cut, and of a checkpoint's slices DeepSpeed keeps that of one rank.
        'a PipelineModule with "fp16" or "bf16" at ZeRO stage 0 (use stage 1)',
        lambda e: (e.fp16_enabled() or e.bfloat16_enabled()) and not e.zero_optimization(),
    ),
    (
        # The gradients of tied layers would not be added up.
        'a PipelineModule with "data_types": {"grad_accum_dtype": …} of another type than the '
        "weights, but for fp32 with bf16",
        lambda e: e.get_data_types() not in ACCUMULATED,
    ),
    ('a PipelineModule with "torch_autocast"', lambda e: e.torch_autocast_enabled()),
    (
        'a PipelineModule with "bf16": {"bf16_master_weights_and_grads": true}',
        lambda e: e.bf16_master_weights_and_gradients(),
    ),
    (
        'a PipelineModule with "bf16": {"immediate_grad_update": true}',
        lambda e: e.bfloat16_enabled() and e._config.bfloat16_config.immediate_grad_update,
    ),
    (
        'a PipelineModule with "offload_optimizer"',
        lambda e: e._config.zero_config.offload_optimizer is not None,
    ),
    (
        # Gradients would be averaged before those of tied layers are added up.
        'a PipelineModule with "overlap_comm": true',
        lambda e: e.zero_optimization() and e.zero_overlap_comm(),
    ),
    ("a PipelineModule with DeepSpeed MoE layers", lambda e: e.has_moe_layers),
    (
        "a PipelineModule with tensor parallelism (a topology with a `model` axis) in bf16",
        lambda e: e.mpu.get_slice_parallel_world_size() > 1 and e.bfloat16_enabled(),
    ),
    (
        'a PipelineModule with tensor parallelism and "checkpoint": {"load_universal": true}',
        lambda e: e.mpu.get_slice_parallel_world_size() > 1 and e.load_universal_checkpoint(),
    ),
    ("a PipelineModule with AutoTP", lambda e: e.autotp_size() > 1),
    (
        'a PipelineModule with "sequence_parallel_size": > 1',
        lambda e: int(e._config._param_dict.get("sequence_parallel_size") or 1) > 1,
    ),
    (
        # Made by one stage, it would not know the embedding or the head of another.
        'a PipelineModule with an optimizer object: name it in the JSON\'s "optimizer"',
        lambda e: e.client_optimizer is not None and _makes_matrices_of_its_own(e),
    ),
)
"""What a message calls the setting, and whether an engine with pipeline stages has it."""


def refused_with_pipeline(engine: Any) -> list[str]:
    """Name what is refused of an engine with pipeline stages; nothing of another engine."""
    if not isinstance(engine.module, PipelineModule):
        return []
    return [name for name, is_set in REFUSED_WITH_PIPELINE if is_set(engine)]
