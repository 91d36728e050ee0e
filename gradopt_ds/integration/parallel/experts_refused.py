"""Settings with experts under which these optimizers would not do what their name says."""

from collections.abc import Callable
from typing import Any

from deepspeed.moe.layer import MoE
from torch.optim import Optimizer


def _has_moe_layer(engine: Any) -> bool:
    """Tell whether there is a DeepSpeed MoE layer; ``has_moe_layers`` means AutoEP's as well."""
    return engine.has_moe_layers and any(isinstance(m, MoE) for m in engine.module.modules())


def _has_auto_ep(engine: Any) -> bool:
    settings = engine._config.expert_parallel_config
    return settings is not None and bool(settings.enabled)


def _is_tensor_parallel(engine: Any) -> bool:
    return engine.autotp_size() > 1 or engine.mpu is not None


def _clips_by_another_norm(engine: Any) -> bool:
    """Tell whether experts count in the norm as they do not in one process.

    Without ZeRO, DeepSpeed averages the norms of ranks that have different experts
    (``clip_grad_norm_``), and in half precision leaves all experts out (FP16_UnfusedOptimizer).
    """
    if not engine.has_moe_layers or engine.zero_optimization() or not engine.gradient_clipping():
        return False
    if engine.bfloat16_enabled() or engine.fp16_enabled():
        return True
    return max(getattr(module, "ep_size", 1) for module in engine.module.modules()) > 1


REFUSED_WITH_EXPERTS: tuple[tuple[str, Callable[[Any], object]], ...] = (
    (
        "DeepSpeed MoE layers at ZeRO stage 3 (DeepSpeed has it for AutoEP alone)",
        lambda e: _has_moe_layer(e) and e.zero_optimization_partition_weights(),
    ),
    (
        '"gradient_clipping": > 0 (its default is 1.0; DeepSpeed clips by another norm) at ZeRO '
        "stage 0 with experts that are spread over ranks, or in half precision",
        _clips_by_another_norm,
    ),
    (
        # Tensor-parallel ranks see the same tokens, and DeepSpeed's gradients of the experts are
        # not those of one process: docs/moe.md.
        "tensor parallelism (or an mpu) with DeepSpeed MoE layers",
        lambda e: _has_moe_layer(e) and _is_tensor_parallel(e),
    ),
    (
        'tensor parallelism (or an mpu) with "expert_parallel": {"enabled": true} (AutoEP)',
        lambda e: _has_auto_ep(e) and _is_tensor_parallel(e),
    ),
    (
        "sequence parallelism with experts that are spread over ranks",
        lambda e: e.has_moe_layers and e.sequence_parallel_size > 1,
    ),
    (
        # AutoEP puts other parameters into the model, which the object would not know.
        'an optimizer object (instead of an "optimizer" in the JSON) with "expert_parallel": '
        '{"enabled": true} (AutoEP)',
        lambda e: _has_auto_ep(e) and isinstance(e.client_optimizer, Optimizer),
    ),
)
"""What a message calls the setting, and whether an engine has it."""
