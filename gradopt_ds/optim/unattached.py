"""Optimizers of this library that were made by hand, and that nothing has used so far.

Frameworks drop an optimizer object without a word, and train with another one. Who builds the other
one can ask here whether the parameters were meant for one of these.
"""

import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.optim import Optimizer

_UNATTACHED: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def remember(optimizer: Optimizer) -> None:
    """Note an optimizer that has just been made. Copies and pickles are not noted."""
    _UNATTACHED.add(optimizer)


def forget(optimizer: Optimizer) -> None:
    """Note that an optimizer is in use: by an engine, or as the base of another."""
    _UNATTACHED.discard(optimizer)


@contextmanager
def in_use_when_made() -> Iterator[None]:
    """Forget what is made in this context, also when it ends in an error."""
    before = weakref.WeakSet(_UNATTACHED)
    try:
        yield
    finally:
        _UNATTACHED.intersection_update(before)


def unattached_over(params: Iterable[Tensor]) -> list[Optimizer]:
    """Find optimizers that are alive, have never stepped by themselves, and hold these parameters.

    An optimizer with state has stepped in a plain script, and what it did is in the weights.
    """
    wanted = {id(param) for param in params}
    if not _over(wanted):
        return []
    gc.collect()  # what only a cycle of references keeps alive is nobody's any more
    return _over(wanted)


def _over(wanted: set[int]) -> list[Optimizer]:
    return [
        optimizer
        for optimizer in _UNATTACHED
        if not optimizer.state
        and any(id(p) in wanted for group in optimizer.param_groups for p in group["params"])
    ]
