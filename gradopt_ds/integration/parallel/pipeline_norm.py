"""The gradient norm of the whole model, by which all pipeline stages clip.

DeepSpeed's own norms are those of one process only if every stage has as many parameter groups: the
wrapper of ZeRO stage 1 asks all stages for a sum once for each group, and waits for a stage that
has none of the matrices. Without ZeRO it counts the first stage alone.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.utils import is_model_parallel_parameter
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from gradopt_ds.integration.parallel.pipeline_ties import is_another_copy


def clip_by_the_whole_norm(engine: Any) -> None:
    """Let an engine with pipeline stages clip by the norm that one process would clip by.

    Args:
        engine: its optimizer wrapper in place.
    """
    wrapper, grid = engine.optimizer, engine.mpu
    if type(wrapper) is DeepSpeedZeroOptimizer:
        wrapper.scaled_global_norm = partial(_norm_of_slices, wrapper, grid)
    elif type(wrapper) is BF16_Optimizer:
        wrapper.get_grads_for_norm = partial(_never_none, wrapper.get_grads_for_norm)
    else:
        engine.clip_fp32_gradients = partial(_clip_whole_gradients, engine)


def _norm_of_slices(wrapper: Any, grid: Any, norm_type: int = 2) -> Tensor:
    """Compute the norm of all slices; infinity if it is not a number."""
    gradients = []
    for group, params in enumerate(wrapper.params_in_partition):
        here = (g for g in wrapper.averaged_gradients[group] if not _is_padding(g))
        gradients += [g for g, p in zip(here, params, strict=False) if _counts(p, grid)]
    total = _sum_of_squares(gradients)
    dist.all_reduce(total)  # each slice, of each stage, is on one rank
    norm = total.sqrt()
    return norm.where(norm.isfinite(), torch.full_like(norm, torch.inf))


def _clip_whole_gradients(engine: Any) -> None:
    params = [param for param in engine.module.parameters() if param.grad is not None]
    total = _sum_of_squares(param.grad for param in params if _counts(param, engine.mpu))
    dist.all_reduce(total, group=engine.mpu.get_model_parallel_group())
    factor = (engine.gradient_clipping() / (total.sqrt() + 1e-6)).clamp(max=1.0)
    if params:
        torch._foreach_mul_([param.grad for param in params], factor)


def _never_none(get_gradients: Any, for_clipping: bool = False) -> Any:
    """Return a zero for the norm of a stage all of whose gradients other stages count.

    Without one BF16_Optimizer raises an error there, and the other stages wait.
    """
    if for_clipping:
        return get_gradients(for_clipping=True)
    gradients, of_experts = get_gradients()
    return gradients or [torch.zeros(1, device=get_accelerator().current_device_name())], of_experts


def _counts(param: Tensor, grid: Any) -> bool:
    """Tell whether the norm counts a parameter here: of equal copies it counts one."""
    is_first = grid.get_slice_parallel_rank() == 0 or is_model_parallel_parameter(param)
    return is_first and not is_another_copy(param)


def _is_padding(gradient: Tensor) -> bool:
    return bool(getattr(gradient, "_zero_padding", False))


def _sum_of_squares(gradients: Iterable[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(gradient.detach().float()) for gradient in gradients]
    if not norms:
        return torch.zeros((), device=get_accelerator().current_device_name())
    return torch.stack(norms).square().sum()
