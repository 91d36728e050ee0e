"""How many operations a piece of work has a device carry out."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Dispatched(TorchDispatchMode):
    """Counts operations that torch dispatches and that are no views.

    Attributes:
        count: so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count the call, then run it."""
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], object], device: torch.device) -> int:
    """Do the work, and count what it launches.

    Returns:
        Kernels, copies and fills on a CUDA device; elsewhere operations that torch dispatches, of
        which some launch several kernels on a GPU.
    """
    if device.type != "cuda":
        with Dispatched() as dispatched:
            work()
        return dispatched.count
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize(device)
    return sum(event.device_type.name == "CUDA" for event in profile.events() or ())
