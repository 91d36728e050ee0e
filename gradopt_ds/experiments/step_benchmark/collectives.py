"""Bytes that collectives send, counted where every one of them passes: torch's dispatcher."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Sent = Callable[[tuple[Any, ...], int, int], float]
"""Arguments of a collective, number of ranks, own rank → bytes that this rank sends."""


def _bytes(tensors: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tree_leaves(tensors) if isinstance(x, Tensor))


def _ring(argument: int, passes: int = 1) -> Sent:
    """Count a ring: all but one of W parts of what is reduced or collected, once per pass."""
    return lambda args, ranks, rank: passes * _bytes(args[argument]) * (ranks - 1) / ranks


def _to_others(args: tuple[Any, ...], ranks: int, rank: int) -> float:
    _, tensor, _, _, splits, *_ = args
    sizes = splits or [len(tensor) // ranks] * ranks
    row = tensor.numel() // max(1, len(tensor))
    return (sum(sizes) - sizes[rank]) * row * tensor.element_size()


SENT: Mapping[str, Sent] = {
    "allreduce_": _ring(0, passes=2),
    "allreduce_coalesced_": _ring(0, passes=2),
    "allgather_": _ring(0),
    "_allgather_base_": _ring(0),
    "allgather_into_tensor_coalesced_": _ring(0),
    "reduce_scatter_": _ring(1),
    "_reduce_scatter_base_": _ring(1),
    "reduce_scatter_tensor_coalesced_": _ring(1),
    "reduce_": _ring(0),
    "broadcast_": _ring(0),
    "alltoall_base_": _to_others,
}
"""What a rank sends, by c10d's name of the collective. What a reduction to one rank, or a broadcast
from one, sends is spread evenly over the ranks: a ring passes the tensor on W - 1 times."""


class CollectiveCounter(TorchDispatchMode):
    """Counts the collectives of this thread, and of autograd's threads, while it is active.

    Attributes:
        calls: number of collectives by kind.
        sent: bytes that this rank sends by kind.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.sent: dict[str, float] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count the call, then run it.

        Raises:
            NotImplementedError: a collective that is not known, and would go uncounted.
        """
        if func.namespace == "c10d":
            self._count(func._schema.name.removeprefix("c10d::"), args)
        return func(*args, **(kwargs or {}))

    def _count(self, kind: str, args: tuple[Any, ...]) -> None:
        if kind in ("barrier", "monitored_barrier_", "check_for_nan"):
            return
        if kind not in SENT:
            raise NotImplementedError(f"it is not known what the collective {kind} sends")
        boxed = next(arg for arg in args if isinstance(arg, torch.ScriptObject) and _is_group(arg))
        group = dist.ProcessGroup.unbox(boxed)
        self.calls[kind] += 1
        self.sent[kind] = self.sent.get(kind, 0) + SENT[kind](args, group.size(), group.rank())


def _is_group(boxed: torch.ScriptObject) -> bool:
    return "ProcessGroup" in str(boxed._type())
