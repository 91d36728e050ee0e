"""Layouts and plans of matrices cut twice, without processes."""

import time
from collections import Counter
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradopt_ds.matrices import Block, ExchangeSettings
from gradopt_ds.ops import NewtonSchulz, PolarExpress
from gradopt_ds.sharding import (
    Layout,
    Matrix,
    Plan,
    chunked_layout,
    contiguous_layout,
    make_plan,
    tensor_parallel_layout,
)
from tests.unit.sharding.tensor_parallel_cases import TensorCase, tensor_cases

BUCKETS = st.sampled_from([1, 2000, 2**29])


def with_gram(case: TensorCase, bucket: int = 2**29) -> Plan:
    """A plan that leaves cut what can stay cut, by names that say so."""
    layout = case.layout
    tall = [
        i for i, m in enumerate(layout.matrices) if m.rows >= m.columns and not layout.widths(i)
    ]
    # One name may stand for several matrices: only where all of them can.
    names = {m.name for m in layout.matrices} - {
        m.name for i, m in enumerate(layout.matrices) if i not in tall
    }
    chosen = ExchangeSettings(
        exchange_bucket_size=bucket, exchange_strategy=dict.fromkeys(names, "gram")
    )
    return make_plan(layout, PolarExpress(), chosen)


@settings(max_examples=200, deadline=None)
@given(case=tensor_cases(), seed=st.integers(0, 2**16))
def test_pieces_put_together_are_the_matrix(case: TensorCase, seed: int) -> None:
    """Each rank's piece lies where its own ZeRO layout has put it, and together they are whole."""
    layout = case.layout
    wholes = case.wholes(torch.Generator().manual_seed(seed))
    slices = case.slices(wholes, padding=torch.nan)
    for index, whole in enumerate(wholes):
        copies = layout.copies(index)
        assert (layout.matrices[index].rows, layout.matrices[index].columns) == whole.shape
        for copy in range(copies):
            pieces = [p for p in layout.pieces(index) if p.rank % copies == copy]
            assert pieces == sorted(pieces, key=lambda p: p.matrix_start)
            flat = torch.cat([slices[p.rank][p.in_slice] for p in pieces])
            assert sum(piece.length for piece in pieces) == whole.numel()
            if case.axes[index] == 1:
                expected = torch.cat([part.flatten() for part in case.parts(index, whole)])
                assert torch.equal(flat, expected)
            else:
                assert torch.equal(flat.view(whole.shape), whole)


@settings(max_examples=200, deadline=None)
@given(case=tensor_cases())
def test_holders_are_those_with_a_piece(case: TensorCase) -> None:
    layout = case.layout
    for index, matrix in enumerate(layout.matrices):
        pieces = {rank: layout.piece(index, rank) for rank in range(layout.world_size)}
        held = {rank: piece for rank, piece in pieces.items() if piece}
        holders = layout.holders(index)
        assert sorted(holders) == sorted(held) and len(holders) == len(held)
        assert all((rank in holders) == (rank in held) for rank in pieces)
        for start in range(matrix.numel):
            for stop in {start + 1, matrix.numel}:
                meet = {
                    r for r, p in held.items() if p.matrix_start < stop and p.matrix_stop > start
                }
                assert set(layout.overlapping(index, start, stop)) == meet


@settings(max_examples=200, deadline=None)
@given(case=tensor_cases(), bucket=BUCKETS)
def test_every_element_is_gathered_once_and_updated_on_every_holder(
    case: TensorCase, bucket: int
) -> None:
    """Sender and receiver agree, and a rule sees each matrix once."""
    plan = with_gram(case, bucket)
    layout = plan.layout
    ranks = range(layout.world_size)
    gathered: Counter[tuple[int, int]] = Counter()
    updated: Counter[tuple[int, int]] = Counter()
    for rank in ranks:
        updated.update(
            (rank, e) for p in plan.local(rank) for e in range(layout.slice_size)[p.in_slice]
        )
        gathered.update((p.matrix, e) for p in plan.local(rank) for e in range(p.length))
    for round_ in range(len(plan.rounds)):
        traffic = [plan.traffic(rank, round_) for rank in ranks]
        for rank, here in enumerate(traffic):
            assert rank not in {*here.to, *here.from_, *here.updated_by, *here.updates_of}
            for other, there in enumerate(traffic):
                assert here.to.get(other, []) == there.from_.get(rank, [])
                assert here.updated_by.get(other, []) == there.updates_of.get(rank, [])
            for piece in [*here.kept, *here.pieces_from]:
                elements = range(piece.matrix_start, piece.matrix_stop)
                assert set(elements) <= set(plan.shard(piece.matrix, rank))
                gathered.update((piece.matrix, e) for e in elements)
            for piece in [*here.kept, *here.pieces_updated]:
                assert piece.rank == rank
                updated.update((rank, e) for e in range(layout.slice_size)[piece.in_slice])
    every = {(i, e) for i, m in enumerate(layout.matrices) for e in range(m.numel)}
    assert gathered == Counter(every)
    held = [(p.rank, e) for i in range(len(layout.matrices)) for p in layout.pieces(i)
            for e in range(layout.slice_size)[p.in_slice]]  # fmt: skip
    assert updated == Counter(held) == Counter(set(held))


@settings(max_examples=100, deadline=None)
@given(case=tensor_cases())
def test_the_bytes_are_those_of_the_formula(case: TensorCase) -> None:
    """mn - own there, mn - own back, of T copies T mn - own back; a scale with each update."""
    plan = make_plan(case.layout, PolarExpress())
    layout = plan.layout
    for wire, slices in ((4, 4), (2, 4), (4, 2), (2, 2)):
        expected = 0
        for index in plan.cut:
            owners_piece = layout.piece(index, plan.owners[index])
            assert owners_piece is not None
            own = owners_piece.length
            numel = layout.matrices[index].numel
            copies = len(case.columns) if case.axes[index] is None else 1
            updates = len(list(layout.pieces(index))) - 1
            expected += min(wire, slices) * (numel - own) + wire * (copies * numel - own)
            expected += 4 * updates
        ranks = range(layout.world_size)
        assert sum(plan.bytes_sent(rank, wire, slices) for rank in ranks) == expected


@settings(max_examples=100, deadline=None)
@given(case=tensor_cases(), bucket=st.sampled_from([1000, 2000, 5000]))
def test_buckets_are_bounded(case: TensorCase, bucket: int) -> None:
    """What a rank puts together in a round, and what it sends of it, fits, or is of one matrix."""
    plan = make_plan(case.layout, PolarExpress(), ExchangeSettings(exchange_bucket_size=bucket))
    for rank in range(plan.layout.world_size):
        for round_, indices in enumerate(plan.rounds):
            owned = [i for i in indices if plan.owners[i] == rank]
            traffic = plan.traffic(rank, round_)
            updates = sum(p.length for pieces in traffic.updates_of.values() for p in pieces)
            kept = sum(p.length for p in traffic.kept)
            held = max(updates, traffic.received) + kept
            assert len(owned) <= 1 or held * 12 * 4 <= bucket


@settings(max_examples=50, deadline=None)
@given(case=tensor_cases(most_tensor=1))
def test_one_tensor_parallel_rank_changes_nothing(case: TensorCase) -> None:
    assert case.layout is case.columns[0]


def part(rows: int, columns: int, ranks: int = 2, name: str = "w") -> Layout:
    return chunked_layout([Matrix(name, rows, columns)], [-(-rows * columns // ranks)], ranks)


@pytest.mark.parametrize(
    ("columns", "axes", "words"),
    [
        ([], [], "at least one"),
        ([part(2, 3), part(2, 3, ranks=3)], [0], "rank 1 has 3 data-parallel ranks, rank 0 has 2"),
        ([part(2, 3), part(2, 3, name="v")], [0], "rank 1 has other matrices than"),
        ([part(2, 3), part(2, 3)], [0, 1], "1 matrices have 2 axes"),
        ([part(2, 3), part(2, 3)], [2], "'w': .* got 2"),
        ([part(2, 3), part(2, 4)], [0], "2 x 3, 2 x 4 cannot be joined along axis 0"),
        ([part(2, 3), part(1, 3)], [1], "2 x 3, 1 x 3 cannot be joined along axis 1"),
        ([part(2, 3), part(1, 3)], [None], "2 x 3, 1 x 3 are no copies"),
        ([part(0, 3), part(0, 3)], [0], "'w' has no elements"),
        ([tensor_parallel_layout([part(2, 3)] * 2, [0])] * 2, [0], "joined .* before"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_refused(
    columns: list[Layout], axes: list[int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        tensor_parallel_layout(columns, axes)


def test_joined_layouts_are_not_split() -> None:
    """Blocks are where a part has them, which only its own layout knows."""
    with pytest.raises(ValueError, match="before joining"):
        tensor_parallel_layout([part(2, 3)] * 2, [0]).split({"w": [Block(0, 1, 3)]})


def test_ranks_are_numbered_tensor_parallel_first() -> None:
    """Rank d * T + t: of 3 + 1 rows on two ranks each, rank 1 has the last row's begin."""
    layout = tensor_parallel_layout([part(3, 2), part(1, 2)], [0])
    assert [(p.rank, p.matrix_start, p.length) for p in layout.pieces(0)] == [
        (0, 0, 3), (2, 3, 3), (1, 6, 1), (3, 7, 1),
    ]  # fmt: skip


def test_rows_may_stay_cut_and_columns_may_not() -> None:
    """Over tensor-parallel ranks as over ZeRO's: by itself beyond a bucket, else when asked for."""
    small = ExchangeSettings(exchange_bucket_size=100)
    forced = ExchangeSettings(exchange_strategy={"w": "gram"})
    rows = tensor_parallel_layout([part(16, 4)] * 2, [0])
    columns = tensor_parallel_layout([part(32, 2)] * 2, [1])
    copies = tensor_parallel_layout([part(32, 4)] * 2, [None])
    for layout, strategy in ((rows, "gram"), (columns, "owner"), (copies, "gram")):
        assert make_plan(layout, NewtonSchulz(), small).strategies == (strategy,)
    assert make_plan(rows, NewtonSchulz(), forced).strategies == ("gram",)
    with pytest.raises(ValueError, match="has cut 'w' by columns; take 'owner'"):
        make_plan(columns, NewtonSchulz(), forced)


def test_the_rows_of_copies_are_worked_on_once() -> None:
    """Gram: one tensor-parallel rank's data-parallel ranks share them, the next's the next's."""
    forced = ExchangeSettings(exchange_strategy={"*": "gram"})
    column = chunked_layout([Matrix("v", 8, 2), Matrix("w", 8, 2)], [8, 8], 2)
    plan = make_plan(tensor_parallel_layout([column] * 2, [None] * 2), NewtonSchulz(), forced)
    assert [[len(plan.shard(i, rank)) for rank in range(4)] for i in (0, 1)] == [
        [8, 0, 8, 0], [0, 8, 0, 8],
    ]  # fmt: skip
    each = NewtonSchulz().shard_flops(4, 2)
    assert plan.flops == (each,) * 4


def test_digests_know_the_axis() -> None:
    """Two halves of a square matrix are not the same by rows, by columns, and not two copies."""
    axes: list[int | None] = [0, 1, None]
    plans = [
        make_plan(tensor_parallel_layout([part(4, 4)] * 2, [axis]), NewtonSchulz()) for axis in axes
    ]
    assert len({plan.digest() for plan in plans}) == 3


H, F, LAYERS = 4096, 11008, 32


def llama_7b(tensor: int, data: int) -> Layout:
    """Stage 1: q, k, v, gate and up by rows, o and down by columns."""
    shapes = [(H // tensor, H)] * 3 + [(H, H // tensor)] + [(F // tensor, H)] * 2
    shapes.append((H, F // tensor))
    matrices = [Matrix(f"{i}.{j}", *s) for i in range(LAYERS) for j, s in enumerate(shapes)]
    *offsets, total = accumulate((m.numel for m in matrices), initial=0)
    column = contiguous_layout(matrices, offsets, -(-total // data), data)
    return tensor_parallel_layout([column] * tensor, [0, 0, 0, 1, 0, 0, 1] * LAYERS)


@pytest.mark.parametrize(("tensor", "data"), [(2, 8), (8, 16), (8, 128)])
def test_the_step_of_7b_on_paper(tensor: int, data: int) -> None:
    """On 1,024 ranks too: in seconds, every rank with its share, and few to exchange with."""
    started = time.process_time()
    layout, oracle, world_size = llama_7b(tensor, data), NewtonSchulz(), tensor * data
    plan = make_plan(layout, oracle)
    rounds = range(len(plan.rounds))
    traffic = [[plan.traffic(rank, round_) for round_ in rounds] for rank in range(world_size)]
    assert time.process_time() - started < 10  # 0.4 s on an idle core
    assert plan.count("owner") == 7 * LAYERS
    # A round has one matrix of each owner, of the 2**29 bytes that there are for 12 copies of it.
    owned = Counter(plan.owners)
    assert len(plan.rounds) == max(owned.values()) <= 1 + -(-7 * LAYERS // world_size)
    cost = [oracle.flops(m.rows, m.columns) for m in layout.matrices]
    assert sum(plan.flops) == sum(cost)
    assert max(plan.flops) <= max(max(cost), 1.25 * sum(cost) / world_size)
    for own in traffic:
        for here in own:
            # The owners of what its few matrices are, and the holders of what it owns.
            assert len(here.to) <= 7 and len(here.updates_of) <= 3 * tensor
    sent = sum(here.sent for own in traffic for here in own)
    total = sum(m.numel for m in layout.matrices)
    assert (1 - 1 / tensor) * total <= sent < total
