"""Slices → parameters → other slices: nothing is lost, and nothing is made up."""

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds.checkpoint import Fragment, Slice, State, parameter_state, slice_state, split

GENERATOR = torch.Generator().manual_seed(0)
SHAPES = {"a": (3, 5), "b": (7,), "c": (2, 2)}
WHOLE = {
    name: State(
        {
            "fp32": torch.randn(shape, generator=GENERATOR),
            "momentum_buffer": torch.randn(shape, generator=GENERATOR),
        },
        {"step": torch.tensor(3.0)},
    )
    for name, shape in SHAPES.items()
}


def contiguous(ranks: int, gap: int) -> list[Slice]:
    """One flat tensor with gaps, cut into equal slices: ZeRO 1 and 2."""
    sizes = [torch.Size(shape).numel() for shape in SHAPES.values()]
    starts = list(accumulate([size + gap for size in sizes], initial=0))
    size = -(-starts[-1] // ranks)
    slices = []
    for rank in range(ranks):
        fragments = []
        for name, start, numel in zip(SHAPES, starts, sizes, strict=False):
            first = max(start, rank * size)
            last = min(start + numel, (rank + 1) * size)
            if first < last:
                fragments.append(Fragment(name, first - start, first - rank * size, last - first))
        slices.append(Slice(0, size, tuple(SHAPES), tuple(fragments)))
    return slices


def chunked(ranks: int, gap: int) -> list[Slice]:
    """A chunk of every parameter in every slice: ZeRO 3."""
    sizes = [torch.Size(shape).numel() for shape in SHAPES.values()]
    chunks = [-(-size // ranks) + gap for size in sizes]
    *offsets, total = accumulate(chunks, initial=0)
    return [
        Slice(
            0,
            total,
            tuple(SHAPES),
            tuple(
                Fragment(name, rank * chunk, offset, min(chunk, numel - rank * chunk))
                for name, numel, chunk, offset in zip(SHAPES, sizes, chunks, offsets, strict=True)
                if rank * chunk < numel
            ),
        )
        for rank in range(ranks)
    ]


def cut(layout: Slice) -> State:
    """The state of one slice, from the whole parameters with fragments in it."""
    names = [f.name for f in layout.fragments] or layout.parameters[:1]
    return slice_state(layout, {name: WHOLE[name] for name in names})


@settings(deadline=None)
@given(st.sampled_from([contiguous, chunked]), st.integers(1, 9), st.integers(0, 3))
def test_round_trip(layout: object, ranks: int, gap: int) -> None:
    """Whatever the layout, with slices of nothing but padding among them."""
    holders = [(slice_, cut(slice_)) for slice_ in layout(ranks, gap)]
    for name, shape in SHAPES.items():
        actual = parameter_state(name, shape, holders[::-1])
        assert actual.shared == WHOLE[name].shared
        for key, tensor in WHOLE[name].elements.items():
            assert torch.equal(actual.elements[key], tensor)


def test_padding_is_zero_and_keeps_the_step() -> None:
    state = slice_state(Slice(0, 4, ("a",), ()), {"a": WHOLE["a"]})
    assert state.shared["step"] == 3
    assert not state.elements["momentum_buffer"].any()


def test_what_is_elementwise_is_told_by_shape() -> None:
    state = {"momentum_buffer": torch.ones(4), "step": torch.tensor(1.0), "eta": 0.5}
    actual = split(Slice(0, 4, (), ()), state)
    assert list(actual.elements) == ["momentum_buffer"]
    assert actual.keys == ["eta", "momentum_buffer", "step"]


def _holders(first: dict[str, Tensor], second: dict[str, Tensor], start: int = 2) -> list:
    return [
        (Slice(0, 2, ("p",), (Fragment("p", at, 0, 2),)), split(Slice(0, 2, (), ()), state))
        for at, state in ((0, first), (start, second))
    ]


def test_disagreement_is_refused() -> None:
    first, two = torch.tensor(1.0), torch.tensor(2.0)
    weight = {"fp32": torch.ones(2)}
    with pytest.raises(ValueError, match="'step' of a part of 'p' is 1"):
        parameter_state("p", (4,), _holders({**weight, "step": first}, {**weight, "step": two})[:2])
    with pytest.raises(ValueError, match="are not all of it"):
        parameter_state("p", (6,), _holders(weight, weight))
    with pytest.raises(ValueError, match="are not all of it"):
        parameter_state("p", (5,), _holders(weight, weight, start=3))
    older = State({"fp32": torch.ones(7)}, {"step": two})
    with pytest.raises(ValueError, match="cannot have one slice"):
        slice_state(contiguous(1, 0)[0], {**WHOLE, "b": older})
