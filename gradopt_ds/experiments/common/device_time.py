"""Seconds of one call, by the device's own clock where it has one."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def timed(run: Callable[[Tensor], Result], x: Tensor) -> tuple[Result, float]:
    """Return the result of a call and its time.

    Args:
        run: what is called.
        x: its argument, on the device whose time counts.
    """
    if x.device.type != "cuda":
        started = time.perf_counter()
        result = run(x)
        return result, time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(x.device)
    begin.record()
    result = run(x)
    end.record()
    torch.cuda.synchronize(x.device)
    return result, begin.elapsed_time(end) / 1e3
