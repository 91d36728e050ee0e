"""What a live engine holds, by category, read off its tensors."""

import gc
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from gradopt_ds.integration.zero.attributes import BUCKETS, GRADIENTS, MASTERS, WEIGHTS

CATEGORIES = ("weights", "masters", "state", "gradients", "buffers", "other")
"""What :func:`live_bytes` tells apart.

- weights: the model's parameters or this rank's part of them, and the flat tensors they lie in
- masters: what the optimizer steps on, where that is not the weights themselves
- state: the optimizer's
- gradients: of the parameters and of the masters, in whatever buffers ZeRO keeps them
- buffers: everything else that ZeRO's wrapper holds, its communication buckets above all
- other: every other tensor that Python can reach
"""


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Return the tensors in nested mappings, lists, tuples and sets; subclasses of these too."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for branch in tree.values():
            yield from tensors_in(branch)
    elif isinstance(tree, list | tuple | set | deque):
        for branch in tree:
            yield from tensors_in(branch)


Existing = Sequence[weakref.ref[Tensor]]


def existing_tensors() -> Existing:
    """Return the tensors that there are now, without keeping them."""
    return [weakref.ref(tensor) for tensor in _all_tensors()]


def live_bytes(engine: Any, before: Existing = ()) -> dict[str, int]:
    """Count the bytes that this rank holds now, by category, each storage counted once.

    A storage that several categories share belongs to the first of them in :data:`CATEGORIES`.

    Args:
        engine: DeepSpeed's.
        before: from :func:`existing_tensors`; what they hold is not counted.
    """
    wrapper, optimizer = engine.optimizer, engine.basic_optimizer
    parameters = list(engine.module.parameters())
    masters = [
        *tensors_in(_attributes(wrapper, MASTERS)),
        *tensors_in([group["params"] for group in optimizer.param_groups]),
    ]
    owned: dict[str, Any] = {
        "weights": [
            parameters,
            [getattr(param, "ds_tensor", None) for param in parameters],
            _attributes(wrapper, WEIGHTS),
        ],
        "masters": masters,
        "state": list(optimizer.state.values()),
        "gradients": [
            [param.grad for param in (*parameters, *masters)],
            [getattr(param, "grad_accum", None) for param in parameters],
            _attributes(wrapper, GRADIENTS),
        ],
        "buffers": [
            vars(wrapper),
            [vars(bucket) for bucket in getattr(wrapper, BUCKETS, {}).values()],
        ],
        "other": _all_tensors(),
    }
    old = [tensor for tensor in (ref() for ref in before) if tensor is not None]
    seen = {tensor.untyped_storage().data_ptr() for tensor in old}
    return {category: _claim(tensors_in(owned[category]), seen) for category in CATEGORIES}


def _attributes(wrapper: Any, names: Iterable[str]) -> list[Any]:
    return [getattr(wrapper, name, None) for name in names]


def _claim(tensors: Iterable[Tensor], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        if tensor.is_meta:
            continue
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def _all_tensors() -> list[Tensor]:
    # `isinstance` would ask proxies for their class, and some answer with an error.
    return [
        candidate
        for candidate in gc.get_objects()
        if issubclass(type(candidate), Tensor)
        # torch.compile keeps tensors that it has traced with, and that have no memory.
        if not issubclass(type(candidate), FakeTensor | FunctionalTensor)
        if not candidate.is_meta
    ]
