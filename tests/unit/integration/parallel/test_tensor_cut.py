"""Which rows and columns of which matrix a tensor-parallel rank has, against torch's cutting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.matrices import Block


def shard(whole: Tensor, cut: TensorCut, rank: int) -> Tensor:
    """What AutoTP and Megatron give a rank: its part of every sub-parameter, joined."""
    assert cut.axis is not None
    fused = whole.split([sum(parts) for parts in cut.widths], cut.axis)
    mine = [p.split(list(w), cut.axis)[rank] for p, w in zip(fused, cut.widths, strict=True)]
    return torch.cat(mine, cut.axis)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[TensorCut, int]:
    """Up to three sub-parameters over up to four ranks; parts may be empty."""
    ranks, fused = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    parts = st.tuples(*[st.integers(0, 3)] * ranks).filter(lambda sizes: sum(sizes) > 0)
    widths = tuple(draw(parts) for _ in range(fused))
    axis, total, other = draw(st.integers(0, 1)), sum(map(sum, widths)), draw(st.integers(1, 5))
    shape = (total, other) if axis == 0 else (other, total)
    return TensorCut(shape, axis, widths), ranks


@given(cuts(), st.data())
def test_a_rank_has_these_elements_of_a_matrix(
    drawn: tuple[TensorCut, int], data: st.DataObject
) -> None:
    """Any rows of the parameter; and all ranks' parts together are the matrix, or it is said."""
    cut, ranks = drawn
    assert cut.axis is not None
    rows, columns = cut.shape
    whole = torch.arange(rows * columns).view(rows, columns)
    first = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(first + 1, rows))
    block = Block(first * columns, stop - first, columns)
    parts = []
    for rank in range(ranks):
        mine = shard(whole, cut, rank)
        assert mine.shape == cut.shard_shape(rank)
        part = cut.block(block, rank)
        assert (cut.axis == 0 or part.rows == block.rows) and part.offset >= 0
        parts.append(mine.flatten()[part.where].view(part.rows, part.columns))
    matrix, joined = whole[first:stop], torch.cat(parts, cut.axis)
    assert joined.flatten().sort().values.equal(matrix.flatten())
    if cut.joins_in_order(block):
        assert joined.equal(matrix)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_matrix_across_sub_parameters_is_out_of_order(axis: int) -> None:
    """Gate and up of two ranks: g0 u0 g1 u1 is not g u. Each of the two by itself is in order."""
    cut = TensorCut((8, 8), axis, ((2, 2), (2, 2)))
    assert not cut.joins_in_order(Block(0, 8, 8))
    assert cut.joins_in_order(Block(0, 4, 8)) == (axis == 0)
    assert cut.joins_in_order(Block(32, 4, 8)) == (axis == 0)
    assert TensorCut((8, 8), axis, ((4, 4),)).joins_in_order(Block(0, 8, 8))


def test_a_copy_is_the_whole() -> None:
    """Of any number of dimensions."""
    cut, block = TensorCut((2, 3, 4)), Block(12, 3, 4)
    assert cut.shard_shape(1) == (2, 3, 4) and cut.block(block, 1) == block
    assert cut.joins_in_order(block)


@pytest.mark.parametrize(
    ("shape", "axis", "widths", "message"),
    [
        ((6, 4), 0, ((3, 2),), "add up to 5"),
        ((6, 4), 2, ((3, 3),), "cut along dimension 2"),
        ((2, 6, 4), 1, ((3, 3),), "cut along dimension 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    shape: tuple[int, ...], axis: int, widths: tuple[tuple[int, ...], ...], message: str
) -> None:
    """Widths that are not all of the dimension; more dimensions than a matrix has."""
    with pytest.raises(ValueError, match=message):
        TensorCut(shape, axis, widths)
