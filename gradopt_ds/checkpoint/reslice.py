"""State of slices → state of one whole parameter → state of other slices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradopt_ds.checkpoint.record import Slice


@dataclass(frozen=True)
class State:
    """What an optimizer keeps for a slice, or for a parameter.

    Attributes:
        elements: tensors with one value per element, flat for a slice.
        shared: what belongs to all elements alike, such as a step count.
    """

    elements: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """All keys, in order."""
        return sorted({*self.elements, *self.shared})


def split(layout: Slice, state: Mapping[str, Any]) -> State:
    """Tell the elementwise part of a slice's state, by its shape, from the rest."""
    elements = {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) and value.shape == (layout.size,)
    }
    return State(elements, {k: v for k, v in state.items() if k not in elements})


def parameter_state(
    name: str, shape: tuple[int, ...], holders: Iterable[tuple[Slice, State]]
) -> State:
    """Put a parameter's state together.

    Args:
        name: of the parameter.
        shape: of the parameter.
        holders: slices of all ranks, among them those with fragments of it, and their states.

    Raises:
        ValueError: the fragments do not make up the parameter, or their states differ.
    """
    pieces = [
        (fragment, state)
        for layout, state in holders
        for fragment in layout.fragments
        if fragment.name == name
    ]
    pieces.sort(key=lambda piece: piece[0].start)
    ends = [0, *(fragment.in_parameter.stop for fragment, _ in pieces)]
    starts = [*(fragment.start for fragment, _ in pieces), torch.Size(shape).numel()]
    if starts != ends:
        raise ValueError(f"the fragments of {name!r}, from {starts} to {ends}, are not all of it")
    shared = _agreed([(f"a part of {name!r}", state) for _, state in pieces])
    elements = {
        key: torch.cat([state.elements[key][fragment.in_slice] for fragment, state in pieces])
        for key in pieces[0][1].elements
    }
    return State({key: flat.view(shape) for key, flat in elements.items()}, shared)


def slice_state(layout: Slice, parameters: Mapping[str, State]) -> State:
    """Cut a slice's state out of its parameters'; padding is zero.

    Args:
        layout: the slice.
        parameters: states by name: of all that have fragments here, or of any one in the slice.

    Raises:
        ValueError: the states differ in what one slice can have only once.
    """
    shared = _agreed([(repr(name), state) for name, state in parameters.items()])
    example = next(iter(parameters.values()))
    elements = {key: tensor.new_zeros(layout.size) for key, tensor in example.elements.items()}
    for fragment in layout.fragments:
        for key, flat in elements.items():
            whole = parameters[fragment.name].elements[key].flatten()
            flat[fragment.in_slice] = whole[fragment.in_parameter]
    return State(elements, shared)


def _agreed(states: Sequence[tuple[str, State]]) -> dict[str, Any]:
    """Return what all of the named states share."""
    (first_name, first), *others = states
    for name, state in others:
        if state.keys != first.keys:
            raise ValueError(
                f"{first_name} has the state {first.keys} and {name} {state.keys}: they cannot "
                "have one slice"
            )
        for key, value in state.shared.items():
            if not torch.equal(torch.as_tensor(value), torch.as_tensor(first.shared[key])):
                raise ValueError(
                    f"{key!r} of {first_name} is {first.shared[key]} and of {name} {value}: they "
                    "cannot have one slice"
                )
    return first.shared
