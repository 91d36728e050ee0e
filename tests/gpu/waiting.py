"""Refuse that the host waits for a device within a piece of work."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {
    f"aten::{name}"
    for name in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
}
"""Operations whose result decides what the host does next."""
INDEXING = {"aten::index", "aten::index_put_"}
"""So do these, where the index is a mask."""


class ReadsRefused(TorchDispatchMode):
    """The rehearsal on a CPU, which never waits: an operation that reads a value is refused."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        masks = [
            x for x in tree_leaves(args[1:2]) if isinstance(x, Tensor) and x.dtype == torch.bool
        ]
        if func._schema.name in READS or (masks and func._schema.name in INDEXING):
            raise RuntimeError(f"{func._schema.name} reads a value")
        return func(*args, **(kwargs or {}))


@contextmanager
def waiting_refused(device: torch.device) -> Iterator[None]:
    """Raise where the host would wait; on CUDA torch itself does."""
    if device.type != "cuda":
        with ReadsRefused():
            yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
