"""What is dispatched: every operation that torch runs, by name."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

NO_WORK = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),  # allocations
    "_unsafe_view",  # a view that autograd does not follow
    "promote_types",  # a question
}


class DispatchedOperations(TorchDispatchMode):
    """Counts the operations of a step.

    Attributes:
        names: name → how often.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()
        self._no_work: set[str] = set()

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
        if func.is_view or func.namespace == "profiler" or func._schema.name[6:] in NO_WORK:
            self._no_work.add(name)
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """All of them but views and allocations, which launch nothing on a device."""
        return sum(n for name, n in self.names.items() if name not in self._no_work)
