"""The step of the auxiliary AdamW: torch's, over copies of the groups."""

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from gradopt_ds.optim.rounding import store

CHUNK = 2**24
"""Elements, or else one row, that exist in float32 at a time: 64 MiB each for weight, gradient and
two moments."""

MOMENTS = ("exp_avg", "exp_avg_sq")

State = MutableMapping[Any, Any]


def has_fused_kernel(*tensors: Tensor) -> bool:
    """Whether torch's fused AdamW steps on a weight, its gradient and its moments.

    The kernel walks through the memory of all of them alike: of a transposed weight with a gradient
    that is not, it would update the wrong elements without an error (torch 2.13 on a CPU).

    Args:
        tensors: in any dtype, layout and device.
    """
    devices = _get_fused_kernels_supported_devices()
    return (
        all(tensor.is_contiguous() and tensor.is_floating_point() for tensor in tensors)
        and len({(tensor.device, tensor.dtype) for tensor in tensors}) == 1
        and tensors[0].device.type in devices
    )


def step_aux(
    groups: Iterable[dict[str, Any]], state: State, generator: torch.Generator | None
) -> None:
    """Step every parameter that has a gradient, with ``lr * lr_scale`` of its group.

    Args:
        groups: with AdamW's settings and ``lr_scale``; they are not written.
        state: parameter → its state, as ``torch.optim.AdamW`` keeps it.
        generator: round bfloat16 parameters and moments stochastically with it; None leaves them
            to torch, which computes in bfloat16.
    """
    for group in groups:
        # Made anew each step, over copies of the groups: DeepSpeed swaps groups in and out, and
        # `lr_scale` must not leak into the `lr` that schedulers read and write.
        settings = {**group, "lr": group["lr"] * group["lr_scale"]}
        members = [param for param in group["params"] if param.grad is not None]
        rounded = [p for p in members if generator is not None and p.dtype == torch.bfloat16]
        if generator is not None:
            for param in rounded:
                _step_in_float32(param, settings, state, generator)
        _step([param for param in members if param not in set(rounded)], settings, state)


def _step(params: Iterable[Tensor], settings: dict[str, Any], state: State) -> None:
    """Take torch's step: in one kernel without temporaries where that is possible."""
    one_kernel: dict[bool, list[Tensor]] = {True: [], False: []}
    for param in params:
        assert param.grad is not None
        own = state.get(param, {})
        moments = [own[key] for key in MOMENTS if key in own]
        one_kernel[fused := has_fused_kernel(param, param.grad, *moments)].append(param)
        if fused and own:
            # The kernel's counter lies beside the weight; a state saved without it has it on a CPU.
            own["step"] = own["step"].to(param.device, torch.float32)
    for fused, members in one_kernel.items():
        if members:
            adamw = AdamW([{**settings, "params": members}], fused=fused or None)
            adamw.state = state  # type: ignore[assignment]
            adamw.step()


def _step_in_float32(
    param: Tensor, settings: dict[str, Any], state: State, generator: torch.Generator
) -> None:
    """Step some rows at a time: AdamW is elementwise, and rows are views in any layout."""
    assert param.grad is not None
    own = state[param]
    for moment in MOMENTS:
        own.setdefault(moment, torch.zeros_like(param, memory_format=torch.preserve_format))
    # Beside the weight, as the fused kernel wants it; a state saved without it has it on a CPU.
    # Copied there in each step, it would have the CPU wait for the device.
    step = own["step"].to(param.device) if "step" in own else torch.zeros((), device=param.device)
    own["step"] = step
    tensors = [param.detach(), param.grad, *(own[moment] for moment in MOMENTS)]
    rows = max(1, CHUNK // max(1, param.shape[1:].numel()))
    for weight, gradient, *moments in zip(
        *(torch.atleast_1d(tensor).split(rows) for tensor in tensors), strict=True
    ):
        chunk = weight.float().requires_grad_()
        chunk.grad = gradient.float()
        floats = {key: moment.float() for key, moment in zip(MOMENTS, moments, strict=True)}
        _step([chunk], settings, {chunk: {"step": step.clone(), **floats}})
        store(weight, chunk.detach(), generator)
        for key, moment in zip(MOMENTS, moments, strict=True):
            store(moment, floats[key], generator)
    step += 1
