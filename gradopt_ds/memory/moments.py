"""Live bytes at the moments of a training step, and the process's peak."""

import resource
from pathlib import Path
from typing import Any

import torch

from gradopt_ds.memory.live import CATEGORIES, Existing, live_bytes

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class Moments:
    """Takes stock of an engine after the backward pass, within the optimizer's step, and after it.

    Args:
        engine: DeepSpeed's.
        before: tensors that are not to be counted, see :func:`gradopt_ds.memory.live.live_bytes`.

    Attributes:
        taken: moment (``"backward"``, ``"step"``, ``"rest"``) → category → bytes, the most of each
            that was seen.
    """

    def __init__(self, engine: Any, before: Existing = ()) -> None:
        self.taken: dict[str, dict[str, int]] = {}
        self._engine, self._before = engine, before
        # Stages 1 to 3 step group by group, so this is called several times a step.
        self._hook = engine.basic_optimizer.register_step_pre_hook(lambda *_: self.take("step"))

    def take(self, moment: str) -> None:
        """Count now."""
        now = live_bytes(self._engine, self._before)
        known = self.taken.setdefault(moment, dict.fromkeys(CATEGORIES, 0))
        self.taken[moment] = {key: max(known[key], now[key]) for key in CATEGORIES}

    def close(self) -> None:
        """Count no more."""
        self._hook.remove()


def resident_bytes() -> int:
    """Count the bytes of this process that are in memory now; 0 where the system does not tell."""
    return _status("VmRSS")


def reset_peak(device: torch.device) -> None:
    """Let :func:`peak_bytes` count from now on, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        try:
            CLEAR.write_text("5")
        except OSError:
            return


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes allocated on a CUDA device, or else of this process in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(key: str) -> int:
    if not STATUS.is_file():
        return 0
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024 if key in lines else 0
