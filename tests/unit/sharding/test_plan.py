"""Layouts and plans, without processes."""

import pytest
from hypothesis import given, settings

from gradopt_ds.sharding import Layout, Matrix, Piece, contiguous_layout, make_plan
from tests.unit.sharding.strategies import layouts


def flops(rows: int, columns: int) -> int:
    """The cost of a Gram product, as every oracle has it."""
    return 2 * rows * columns * min(rows, columns)


@settings(max_examples=300, deadline=None)
@given(layout=layouts())
def test_pieces_cover_every_element_once(layout: Layout) -> None:
    """Every element of every matrix lies in one place, and no place holds two elements."""
    occupied = set()
    for matrix, pieces in zip(layout.matrices, layout.pieces, strict=True):
        covered = [i for piece in pieces for i in range(matrix.numel)[piece.in_matrix]]
        assert covered == list(range(matrix.numel))
        for piece in pieces:
            for position in range(layout.slice_size)[piece.in_slice]:
                assert (piece.rank, position) not in occupied
                occupied.add((piece.rank, position))


@settings(max_examples=300, deadline=None)
@given(layout=layouts())
def test_every_matrix_is_computed_once(layout: Layout) -> None:
    """Local on its only holder, or owned by one of the holders of its pieces."""
    plan = make_plan(layout, flops)
    ranks = range(layout.world_size)
    local = [piece.matrix for rank in ranks for piece in plan.local(rank)]
    owned = [index for rank in ranks for index in plan.owned(rank)]
    assert sorted(local + owned) == list(range(len(layout.matrices)))
    for index, owner in enumerate(plan.owners):
        assert owner in {piece.rank for piece in layout.pieces[index]}
    assert len(plan.cut) <= layout.world_size - 1


@settings(max_examples=300, deadline=None)
@given(layout=layouts())
def test_what_is_sent_is_what_is_expected(layout: Layout) -> None:
    """The ranks agree pairwise, and an owner ends up with every piece of its matrices."""
    plan = make_plan(layout, flops)
    traffic = [plan.traffic(rank) for rank in range(layout.world_size)]
    for a, from_a in enumerate(traffic):
        assert not from_a.to_owner[a]
        for b, from_b in enumerate(traffic):
            assert from_a.to_owner[b] == from_b.from_holder[a]
        received = {piece for pieces in from_a.from_holder for piece in pieces}
        kept = {p for i in plan.owned(a) for p in layout.pieces[i] if p.rank == a}
        assert received | kept == {p for i in plan.owned(a) for p in layout.pieces[i]}


@settings(max_examples=100, deadline=None)
@given(layout=layouts())
def test_only_cut_matrices_travel(layout: Layout) -> None:
    """Bytes: each foreign piece goes to the owner once and its update, with a scale, back once."""
    plan = make_plan(layout, flops)
    foreign = [p for i in plan.cut for p in layout.pieces[i] if p.rank != plan.owners[i]]
    sent = sum(plan.traffic(rank).elements_sent for rank in range(layout.world_size))
    assert sent == sum(2 * piece.length + 1 for piece in foreign)


def test_digest_tells_plans_apart() -> None:
    """Equal for equal layouts, different when a name, a shape or a cut differs."""
    layouts_ = [
        contiguous_layout([Matrix("a", 4, 6)], [0], 12, 2),
        contiguous_layout([Matrix("b", 4, 6)], [0], 12, 2),
        contiguous_layout([Matrix("a", 6, 4)], [0], 12, 2),
        contiguous_layout([Matrix("a", 4, 6)], [0], 14, 2),
    ]
    digests = [make_plan(layout, flops).digest() for layout in layouts_]
    assert len(set(digests)) == 4
    assert digests[0] == make_plan(layouts_[0], flops).digest()
    assert all(0 <= digest < 2**63 for digest in digests)


def test_costly_matrices_go_to_idle_holders() -> None:
    """Rank 1 already has a whole matrix; the cut one goes to rank 0, which has none."""
    layout = contiguous_layout([Matrix("cut", 5, 4), Matrix("whole", 3, 4)], [0, 20], 16, 2)
    assert make_plan(layout, flops).owners == (0, 1)


def test_a_layout_with_a_hole_is_refused() -> None:
    """The pieces must continue one another."""
    matrix = Matrix("weight", 2, 3)
    with pytest.raises(ValueError, match="4 of 6 elements"):
        Layout((matrix,), ((Piece(0, 0, 0, 0, 4),),), slice_size=8, world_size=1)
    with pytest.raises(ValueError, match="does not continue at 4"):
        Layout((matrix,), ((Piece(0, 0, 0, 0, 4), Piece(0, 1, 5, 0, 1)),), 8, 2)


def test_a_2b_model_on_hundreds_of_ranks() -> None:
    """The planner's work does not grow with ranks x matrices: 512 ranks within a second."""
    shapes = [(2560, 2560)] * 4 + [(6912, 2560)] * 2 + [(2560, 6912)]
    matrices = [Matrix(f"{layer}.{i}", *s) for layer in range(24) for i, s in enumerate(shapes)]
    offsets, position = [], 0
    for matrix in matrices:
        offsets.append(position)
        position += matrix.numel
    layout = contiguous_layout(matrices, offsets, -(-position // 512), 512)
    plan = make_plan(layout, flops)
    assert len(plan.cut) <= 511
    # No rank ever holds more than the matrices that begin in its slice, plus one.
    assert max(len(plan.owned(rank)) for rank in range(512)) <= 2
