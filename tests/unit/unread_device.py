"""A device that computes nothing and cannot be read: what a step may do without waiting for a GPU.

Tensors on torch's meta device have shapes and no values: whatever depends on a value raises, and
so does every copy to the CPU. It takes the branches of the library that a CPU does not take. What
the meta device would let pass, and a GPU would wait for, is refused here: a copy from the CPU.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import adam, optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradopt_ds.optim import aux_adamw

META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Refuses operations that take from one device and give to another."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        if len(devices := {x.device.type for x in tensors}) > 1:
            raise AssertionError(f"{func._schema.name} between {sorted(devices)}")
        return result


class OnTheCpu(torch.Generator):
    """Random numbers for the meta device, which has none of its own."""

    def __new__(cls, device: Any = "cpu") -> "OnTheCpu":
        return super().__new__(cls, "cpu")


@contextmanager
def unread_device() -> Iterator[None]:
    """Let what a GPU has, and the meta device lacks, be there; refuse to wait."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (aux_adamw, optimizer, adam):
            name = "_get_fused_kernels_supported_devices"
            patch.setattr(module, name, lambda: ["cuda", "meta"], raising=False)
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        patch.setattr(torch, "Generator", OnTheCpu)
        with OneDevice():
            yield
