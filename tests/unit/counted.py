"""What is dispatched: every operation that torch runs, by name."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class DispatchedOperations(TorchDispatchMode):
    """Counts the operations of a step.

    Attributes:
        names: name → how often.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()
        self._views: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count, and run."""
        name = func._schema.name
        self.names[name] += 1
        if func.is_view or name.removeprefix("aten::") in ALLOCATIONS:
            self._views.add(name)
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """All of them but views and allocations, which launch nothing on a device."""
        return sum(n for name, n in self.names.items() if name not in self._views)
