"""State of tensor-parallel shards → state of one whole parameter → state of other shards."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gradopt_ds.checkpoint.record import Cut, Record
from gradopt_ds.checkpoint.reslice import State


def as_whole(record: Record) -> Record:
    """Return the record of one tensor-parallel rank with the shapes of whole parameters."""
    if record.tensor is None:
        return record
    cuts = record.tensor.cuts
    groups = tuple(
        replace(group, parameters={name: cuts[name].shape for name in group.parameters})
        for group in record.groups
    )
    return replace(record, groups=groups, tensor=None)


def join(name: str, shards: Sequence[State], cut: Cut) -> State:
    """Put a parameter's state together from those of its shards.

    Args:
        name: of the parameter.
        shards: by tensor-parallel rank.
        cut: what they are.

    Raises:
        ValueError: the shards have different state, or copies are not equal.
    """
    first = shards[0]
    if any(_shared(shard) != _shared(first) or shard.keys != first.keys for shard in shards):
        raise ValueError(f"tensor-parallel ranks have different state of {name!r}")
    elements = {}
    for key in first.elements:
        parts = [shard.elements[key] for shard in shards]
        if cut.axis is not None:
            elements[key] = _joined(parts, cut, cut.axis)
        elif any(not torch.equal(part, parts[0]) for part in parts):
            raise ValueError(f"tensor-parallel ranks have different copies of {name!r} ({key})")
        else:
            elements[key] = parts[0]
    return State(elements, first.shared)


def shard(whole: State, cut: Cut, rank: int) -> State:
    """Cut a whole parameter's state into that of one tensor-parallel rank."""
    return State({k: shard_of(x, cut, rank) for k, x in whole.elements.items()}, whole.shared)


def shard_of(whole: Tensor, cut: Cut, rank: int) -> Tensor:
    """Cut a whole parameter, or what is shaped like one, into the shard of a rank."""
    axis = cut.axis
    if axis is None:
        return whole
    fused = whole.split([sum(widths) for widths in cut.widths], axis)
    parts = [p.split(list(w), axis)[rank] for p, w in zip(fused, cut.widths, strict=True)]
    return torch.cat(parts, axis)


def _joined(parts: Sequence[Tensor], cut: Cut, axis: int) -> Tensor:
    by_rank = [
        part.split([widths[rank] for widths in cut.widths], axis) for rank, part in enumerate(parts)
    ]
    return torch.cat([p for fused in zip(*by_rank, strict=True) for p in fused], axis)


def _shared(state: State) -> dict[str, object]:
    return {k: x.tolist() if isinstance(x, Tensor) else x for k, x in state.shared.items()}
