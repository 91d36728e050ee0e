"""Layouts, without processes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradopt_ds.optim.splits import blocks_of
from gradopt_ds.sharding import Layout, Matrix, chunked_layout, contiguous_layout
from gradopt_ds.sharding.cut import Cut
from tests.unit.sharding.strategies import chunked_layouts, contiguous_layouts, layouts


@settings(max_examples=300, deadline=None)
@given(layout=layouts())
def test_pieces_cover_every_element_once(layout: Layout) -> None:
    """Every element of every matrix lies in one place, and no place holds two elements."""
    occupied = set()
    for index, matrix in enumerate(layout.matrices):
        covered: list[int] = []
        for piece in layout.pieces(index):
            assert piece == layout.piece(index, piece.rank) and piece.length > 0
            covered += range(piece.matrix_start, piece.matrix_stop)
            for position in range(layout.slice_size)[piece.in_slice]:
                assert (piece.rank, position) not in occupied
                occupied.add((piece.rank, position))
        assert covered == list(range(matrix.numel))


@settings(max_examples=300, deadline=None)
@given(layout=layouts())
def test_overlapping_names_the_holders(layout: Layout) -> None:
    """The ranks said to hold a range of elements are those whose pieces meet it."""
    for index, matrix in enumerate(layout.matrices):
        for start in range(matrix.numel):
            for stop in {start + 1, matrix.numel}:
                holders = {
                    p.rank
                    for p in layout.pieces(index)
                    if p.matrix_start < stop and p.matrix_stop > start
                }
                assert set(layout.overlapping(index, start, stop)) == holders


@settings(max_examples=300, deadline=None)
@given(layout=contiguous_layouts() | chunked_layouts(), data=st.data())
def test_blocks_lie_where_their_parameter_does(layout: Layout, data: st.DataObject) -> None:
    """Element by element: of a block, and of the flattened parameter at the block's offset."""
    blocks = {
        matrix.name: blocks_of(
            (matrix.rows, matrix.columns),
            data.draw(st.sampled_from([n for n in (1, 2, 3) if matrix.rows % n == 0])),
        )
        for matrix in layout.matrices
    }
    split = layout.split(blocks)
    places = [place for index in range(len(split.matrices)) for place in places_of(split, index)]
    assert places == [p for index in range(len(layout.matrices)) for p in places_of(layout, index)]
    shapes = [(block.rows, block.columns) for own in blocks.values() for block in own]
    assert [(matrix.rows, matrix.columns) for matrix in split.matrices] == shapes


def places_of(layout: Layout, index: int) -> list[tuple[int, int]]:
    """(rank, position in its slice) of every element of a matrix."""
    return [
        (piece.rank, piece.slice_start + offset)
        for piece in layout.pieces(index)
        for offset in range(piece.length)
    ]


def test_stage_3_cuts_like_deepspeed() -> None:
    """Rank r has the elements from r * ceil(numel / W); the last rank's chunk ends in padding."""
    layout = chunked_layout([Matrix("a", 2, 5), Matrix("b", 1, 2)], [4, 1], 3)
    assert [(p.rank, p.matrix_start, p.slice_start, p.length) for p in layout.pieces(0)] == [
        (0, 0, 0, 4), (1, 4, 0, 4), (2, 8, 0, 2),
    ]  # fmt: skip
    assert [(p.rank, p.slice_start) for p in layout.pieces(1)] == [(0, 4), (1, 4)]
    assert layout.piece(1, 2) is None and layout.slice_size == 5


def test_stages_1_and_2_cut_the_group() -> None:
    """The second matrix begins in rank 0's slice, after the first, and ends in rank 1's."""
    layout = contiguous_layout([Matrix("a", 2, 2), Matrix("b", 2, 4)], [0, 5], 8, 2)
    assert [(p.rank, p.matrix_start, p.slice_start, p.length) for p in layout.pieces(1)] == [
        (0, 0, 5, 3), (1, 3, 0, 5),
    ]  # fmt: skip


def test_a_layout_that_does_not_fit_is_refused() -> None:
    """Past the last rank, or past the end of a slice."""
    matrix = Matrix("weight", 2, 3)
    with pytest.raises(ValueError, match="'weight' is cut over ranks"):
        Layout((matrix,), (Cut(2),), slice_size=9, world_size=2)
    with pytest.raises(ValueError, match="leaves its slice"):
        Layout((matrix,), (Cut(3, base=1),), slice_size=3, world_size=2)
