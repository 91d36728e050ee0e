"""What an engine holds, whole and in float64."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from torch import Tensor, nn

from tests.distributed.model import micro_batch


def captured_gradients(engine: Any) -> dict[str, np.ndarray]:
    """The reduced gradients inside the engine, without the loss scale."""
    scaler = engine.torch_autocast_z0_gradscaler  # stage 0, torch's autocast in float16
    scale = scaler.get_scale() if scaler else getattr(engine.optimizer, "loss_scale", 1.0)
    return {
        name: array(safe_get_full_grad(param)) / scale
        for name, param in engine.module.named_parameters()
    }


def single_process_gradients(
    twin: nn.Module, step: int, accumulation: int
) -> dict[str, np.ndarray]:
    """What one process computes from the micro-batches of all ranks; zero where nobody went."""
    twin.zero_grad()
    count = dist.get_world_size() * accumulation
    for rank in range(dist.get_world_size()):
        for micro in range(accumulation):
            (twin(micro_batch(step, micro, rank)) / count).backward()
    return {
        name: array(torch.zeros_like(param) if param.grad is None else param.grad)
        for name, param in twin.named_parameters()
    }


def clipped(gradients: dict[str, np.ndarray], clipping: float) -> dict[str, np.ndarray]:
    norm = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    factor = min(1.0, clipping / (norm + 1e-6)) if clipping else 1.0
    return {name: g * factor for name, g in gradients.items()}


def masters(engine: Any) -> dict[str, np.ndarray]:
    """The fp32 weights that the optimizer updates, whole."""
    named = list(engine.module.named_parameters())
    if hasattr(engine.optimizer, "fp32_groups"):
        halves = [p for group in engine.optimizer.fp16_groups for p in group]
        masters = [p for group in engine.optimizer.fp32_groups for p in group]
        by_half = dict(zip(map(id, halves), masters, strict=True))
        return {name: array(by_half[id(param)]) for name, param in named}
    if all(param.dtype == torch.float32 and not hasattr(param, "ds_id") for _, param in named):
        return {name: array(param) for name, param in named}
    return {name: array(safe_get_full_fp32_param(param)) for name, param in named}


def array(tensor: Tensor) -> np.ndarray:
    # A copy: `double()` of a double, and `numpy()` of anything, would share the memory.
    return tensor.detach().double().cpu().clone().numpy()


def in_last_places(deviation: np.ndarray, weight: np.ndarray) -> float:
    """The largest deviation in units of the last of a weight's 8 bits in bfloat16.

    Tiny weights count as 0.01.
    """
    place = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(weight), 0.01))) - 7)
    return float((np.abs(deviation) / place).max())
