"""The optimizer names that a DeepSpeed JSON may use, and what each stands for."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from deepspeed.runtime.config import DEEPSPEED_OPTIMIZERS
from torch.optim import AdamW, Optimizer

from gradopt_ds.optim import SWAN, GradPower, MatrixOptimizer, Muon, PolarGrad, SinkGD

POWER = 1.2
"""The exponent of GradPower's experiments."""

GRAD_POWER = "GradPower"


@dataclass(frozen=True)
class Entry:
    """What a JSON name stands for: a class, the power before it, and defaults of its own."""

    optimizer: type[Optimizer]
    power: float = 1.0
    defaults: Mapping[str, Any] = field(default_factory=dict)


OPTIMIZERS: dict[str, Entry] = {}
"""Name → what it stands for, filled by :func:`register_optimizer`. ``"Muon"`` is not among them: in
a DeepSpeed JSON that name is DeepSpeed's own."""

TORCH_ELEMENTWISE = {
    name: optimizer
    for name, optimizer in vars(torch.optim).items()
    if inspect.isclass(optimizer)
    and issubclass(optimizer, Optimizer)
    # Adafactor and Muon need whole matrices, SparseAdam sparse gradients and LBFGS a closure.
    and name not in ("Optimizer", "Adafactor", "Muon", "SparseAdam", "LBFGS")
}
"""The optimizers of ``torch.optim`` that can step on ZeRO's flat slices."""


def register_optimizer(
    name: str,
    optimizer: type[Optimizer],
    *,
    power: float = 1.0,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Make an optimizer known to DeepSpeed's JSON under a name.

    A subclass of :class:`gradopt_ds.MatrixOptimizer` gets whole matrices under every layout of
    ZeRO. Any other class must be elementwise, because ZeRO hands it flat slices: an update that
    depends on the shape of a parameter, or on other elements of it, would be another one there.
    Registered without a power, it is also a base that ``"GradPower"`` takes.

    Args:
        name: the ``"type"``, recognised in any case.
        optimizer: its constructor takes the parameters first; its other arguments are the keys that
            ``"params"`` may have.
        power: exponent of the gradient before it; the JSON may set another.
        defaults: that differ from the constructor's.

    Raises:
        ValueError: the name is taken, by this library, by DeepSpeed or by ``torch.optim``.
        TypeError: not a subclass of ``torch.optim.Optimizer``, or one of GradPower, which takes
            other optimizers as its base.
    """
    if not (inspect.isclass(optimizer) and issubclass(optimizer, Optimizer)):
        raise TypeError(f"{name}: {optimizer!r} is not a subclass of torch.optim.Optimizer")
    if issubclass(optimizer, GradPower):
        raise TypeError(f"{name}: register the base of a GradPower, with `power`")
    if name.lower() in set(map(str.lower, _taken_names())):
        raise ValueError(f"the optimizer name {name!r} is taken, in whatever case")
    OPTIMIZERS[name] = Entry(optimizer, power, dict(defaults or {}))


def canonical_name(name: str | None) -> str | None:
    """Return this library's spelling of a JSON optimizer type; None if the type is not ours."""
    spellings = {known.lower(): known for known in names()}
    return spellings.get(name.lower()) if name else None


def names() -> list[str]:
    """Return every optimizer type that a JSON may name besides DeepSpeed's own."""
    return [*OPTIMIZERS, GRAD_POWER]


def bases() -> dict[str, Entry]:
    """Return what ``"GradPower"`` takes as its base."""
    plain = {name: entry for name, entry in OPTIMIZERS.items() if entry.power == 1.0}
    # There the name is free: DeepSpeed's Muon works on gradients before any optimizer sees them.
    return {**{n: Entry(c) for n, c in TORCH_ELEMENTWISE.items()}, "Muon": Entry(Muon), **plain}


def is_elementwise(optimizer: type[Optimizer]) -> bool:
    """Tell whether a class is known, or was registered, to work on flat slices."""
    registered = (entry.optimizer for entry in OPTIMIZERS.values())
    known = {*TORCH_ELEMENTWISE.values(), *registered}
    return optimizer in known and not issubclass(optimizer, MatrixOptimizer)


def _taken_names() -> Iterator[str]:
    yield from names()
    yield from DEEPSPEED_OPTIMIZERS
    yield from (name for name, value in vars(torch.optim).items() if inspect.isclass(value))


register_optimizer("SWAN", SWAN)
register_optimizer("SWANPower", SWAN, power=POWER)
register_optimizer("SinkGD", SinkGD)
register_optimizer("PolarGrad", PolarGrad)
register_optimizer("PolarGradPower", PolarGrad, power=POWER)
register_optimizer("MatrixMuon", Muon)
register_optimizer("MuonPower", Muon, power=POWER)
register_optimizer(
    "AdamPower", AdamW, power=POWER, defaults={"betas": (0.9, 0.95), "weight_decay": 0.1}
)
