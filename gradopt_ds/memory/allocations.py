"""Bytes that a piece of work has allocated and still holds, at their peak."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorages(TorchDispatchMode):
    """Follows the storages that are allocated on the CPU while it is active.

    Only what passes torch's dispatcher is seen: temporaries inside a kernel are not.

    Attributes:
        alive: bytes that are alive now.
        peak: most bytes that were alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.alive = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run it, and look for storages that were not there before."""
        old = {_address(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and _address(x) not in old:
                self._follow(x.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            self._known.pop(key, None)
            self.alive -= size

        self._known[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


class PeakBytes:
    """The most bytes that any of several pieces of work has allocated and held at a time.

    Args:
        device: where; the allocator counts on an accelerator, :class:`LiveStorages` on the CPU.

    Attributes:
        most: the peak so far, in bytes.
    """

    def __init__(self, device: torch.device) -> None:
        self.most = 0
        self._device = device

    def during(self, owner: Any, method: str) -> None:
        """Watch a method of an object from now on."""
        work = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._device.type == "cuda":
                return self._on_cuda(work, *args, **kwargs)
            with LiveStorages() as live:
                result = work(*args, **kwargs)
            self.most = max(self.most, live.peak)
            return result

        setattr(owner, method, watched)

    def _on_cuda(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        result = work(*args, **kwargs)
        self.most = max(self.most, torch.cuda.max_memory_allocated(self._device) - before)
        return result


def _address(x: Tensor) -> int:
    return x.untyped_storage()._cdata
