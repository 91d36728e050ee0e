"""Milliseconds between marks, on the CPU's clock or on the device's."""

import time

import torch
import torch.distributed as dist


class Stopwatch:
    """Times the parts of one step; every rank starts together.

    Args:
        device: a CUDA device is timed with its own events, so that nothing waits for the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[float | torch.cuda.Event] = []
        self._host: list[float] = []
        dist.barrier()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.mark()

    def mark(self) -> None:
        """End one part and begin the next."""
        self._host.append(time.perf_counter())
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def host_milliseconds(self) -> float:
        """Return the time from the start to the last mark on this rank's CPU.

        On a GPU it has by then queued the work, and waited where it asked for results.
        """
        return 1e3 * (self._host[-1] - self._host[0])

    def milliseconds(self) -> list[float]:
        """Return the times from the start to each mark, on the slowest rank of all."""
        start, *ends = self._marks
        if isinstance(start, torch.cuda.Event):
            torch.cuda.synchronize(self._device)
            here = [start.elapsed_time(end) for end in ends if isinstance(end, torch.cuda.Event)]
        else:
            here = [1e3 * (end - start) for end in ends if isinstance(end, float)]
        slowest = torch.tensor(here, dtype=torch.float64, device=self._device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        return slowest.tolist()
