"""Plans, without processes: who computes what, and what is sent for it."""

from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings

from gradopt_ds.matrices import ExchangeSettings
from gradopt_ds.ops import SVD, GramNewtonSchulz, NewtonSchulz, Oracle, PolarExpress
from gradopt_ds.sharding import (
    Layout,
    Matrix,
    Plan,
    chunked_layout,
    contiguous_layout,
    make_plan,
)
from tests.unit.sharding.strategies import exchange_settings, layouts

LLAMA = {
    "130m": (768, 2048, 12),
    "350m": (1024, 2736, 24),
    "1.3b": (2048, 5461, 24),
    "7b": (4096, 11008, 32),
}
"""Hidden and intermediate size, number of layers."""

RANKS = (2, 4, 8, 16, 32, 64, 128, 256, 512)


def llama(name: str) -> list[Matrix]:
    """The matrices of a LLaMA's blocks."""
    h, f, layers = LLAMA[name]
    shapes = [(h, h)] * 4 + [(f, h)] * 2 + [(h, f)]
    return [Matrix(f"{layer}.{i}", *s) for layer in range(layers) for i, s in enumerate(shapes)]


@cache
def stage_3_plan(name: str, world_size: int, oracle: Oracle) -> Plan:
    """All matrices of the blocks in one sub-group."""
    matrices = llama(name)
    chunks = [-(-m.numel // world_size) for m in matrices]
    return make_plan(chunked_layout(matrices, chunks, world_size), oracle)


@settings(max_examples=300, deadline=None)
@given(layout=layouts(), chosen=exchange_settings())
def test_every_row_is_put_together_once(layout: Layout, chosen: ExchangeSettings) -> None:
    """Whole on one rank, or with strategy gram every row on one."""
    plan = make_plan(layout, PolarExpress(), chosen)
    for index, matrix in enumerate(layout.matrices):
        shards = [plan.shard(index, rank) for rank in range(layout.world_size)]
        assert Counter(e for s in shards for e in s) == Counter(range(matrix.numel))
        assert all(edge % matrix.columns == 0 for s in shards for edge in (s.start, s.stop) if s)
        if plan.strategies[index] != "gram":
            assert plan.owners[index] in layout.holders(index)
            assert len(shards[plan.owners[index]]) == matrix.numel
    exchanged = [index for round_ in plan.rounds for index in round_]
    assert sorted(exchanged) == list(plan.cut)
    local = {p.matrix for rank in range(layout.world_size) for p in plan.local(rank)}
    assert local == set(range(len(layout.matrices))) - set(plan.cut)


@settings(max_examples=300, deadline=None)
@given(layout=layouts(), chosen=exchange_settings())
def test_what_is_sent_is_what_is_expected(layout: Layout, chosen: ExchangeSettings) -> None:
    """The ranks agree pairwise, and each shard gets every element from its holder once."""
    plan = make_plan(layout, PolarExpress(), chosen)
    for round_, indices in enumerate(plan.rounds):
        traffic = [plan.traffic(rank, round_) for rank in range(layout.world_size)]
        for rank, here in enumerate(traffic):
            assert rank not in here.to and rank not in here.from_
            for other, there in enumerate(traffic):
                assert here.to.get(other, []) == there.from_.get(rank, [])
            arrived = [*here.kept, *(p for pieces in here.from_.values() for p in pieces)]
            for index in indices:
                elements = [
                    e
                    for p in arrived
                    if p.matrix == index
                    for e in range(p.matrix_start, p.matrix_stop)
                ]
                assert sorted(elements) == list(plan.shard(index, rank))


@settings(max_examples=100, deadline=None)
@given(layout=layouts())
def test_only_cut_matrices_travel(layout: Layout) -> None:
    """Bytes: each foreign piece goes to the owner once and its update, with a scale, back once."""
    plan = make_plan(layout, PolarExpress())
    foreign = [p for i in plan.cut for p in layout.pieces(i) if p.rank != plan.owners[i]]
    elements, scales = sum(piece.length for piece in foreign), len(foreign)
    for wire, slices in ((4, 4), (2, 4), (4, 2), (2, 2)):
        sent = sum(plan.bytes_sent(rank, wire, slices) for rank in range(layout.world_size))
        assert sent == (min(wire, slices) + wire) * elements + 4 * scales


@settings(max_examples=100, deadline=None)
@given(layout=layouts(), chosen=exchange_settings())
def test_buckets_are_bounded(layout: Layout, chosen: ExchangeSettings) -> None:
    """What a rank holds in a round fits the bucket, unless it is one matrix."""
    plan = make_plan(layout, PolarExpress(), chosen)
    for rank in range(layout.world_size):
        for indices in plan.rounds:
            owned = [i for i in indices if plan.owners[i] == rank]
            held = sum(layout.matrices[i].numel for i in owned)
            assert len(owned) <= 1 or held * 12 * 4 <= chosen.exchange_bucket_size


def test_stage_3_sends_what_the_exchange_must() -> None:
    """8 mn (W - 1) / W^2 bytes per rank and matrix: in all exactly, on the busiest nearly."""
    for name in LLAMA:
        for world_size in RANKS:
            plan = stage_3_plan(name, world_size, NewtonSchulz())
            matrices = plan.layout.matrices
            bound = sum(8 * m.numel * (world_size - 1) / world_size**2 for m in matrices)
            sent = [plan.bytes_sent(rank) for rank in range(world_size)]
            assert sum(sent) <= 1.05 * world_size * bound
            if len(matrices) >= 4 * world_size:
                assert max(sent) <= 1.05 * bound, (name, world_size)


@pytest.mark.parametrize("oracle", [NewtonSchulz(), GramNewtonSchulz()], ids=lambda o: o.name)
def test_work_is_balanced(oracle: Oracle) -> None:
    """As evenly as whole matrices allow: within 5 % of the mean, or of the best packing."""
    for name in LLAMA:
        for world_size in RANKS:
            plan = stage_3_plan(name, world_size, oracle)
            mean = sum(plan.flops) / world_size
            costs = Counter(oracle.flops(m.rows, m.columns) for m in plan.layout.matrices)
            best = max(mean, smallest_makespan(costs, world_size))
            assert max(plan.flops) <= 1.05 * best, (name, world_size)


def smallest_makespan(costs: Counter[int], world_size: int) -> float:
    """The least possible load of the busiest of some ranks, for jobs of two costs."""
    (small, count), (large, large_count) = sorted(costs.items())
    loads = sorted(
        a * small + b * large
        for a in range(count + 1)
        for b in range(large_count + 1)
        if a * small + b * large <= 2 * (large + sum(c * n for c, n in costs.items()) / world_size)
    )
    low, high = 0, len(loads) - 1
    while low < high:
        middle = (low + high) // 2
        if _fits(loads[middle], small, count, large, large_count, world_size):
            high = middle
        else:
            low = middle + 1
    return loads[low]


def _fits(load: int, small: int, count: int, large: int, large_count: int, world_size: int) -> bool:
    """Whether every job finds a rank: the most small jobs beside a given number of large ones."""
    room = {b: (load - b * large) // small for b in range(load // large + 1)}
    most: dict[int, int] = {0: 0}  # large jobs placed so far → small jobs placed at most
    for _ in range(world_size):
        after: dict[int, int] = {}
        for placed, beside in most.items():
            for b, a in room.items():
                key = min(placed + b, large_count)
                after[key] = max(after.get(key, 0), beside + a)
        most = after
    return most.get(large_count, -1) >= count


def test_plans_of_one_step_share_the_load() -> None:
    """Sub-groups of one matrix each do not all choose rank 0."""
    oracle = NewtonSchulz()
    load = [0, 0]
    owners = []
    for matrix in llama("130m")[:4]:
        layout = chunked_layout([matrix], [matrix.numel // 2], 2)
        plan = make_plan(layout, oracle, carried=load)
        load = [a + b for a, b in zip(load, plan.flops, strict=True)]
        owners += plan.owners
    assert owners == [0, 1, 0, 1]


def test_an_embedding_is_never_put_together() -> None:
    """128k x 4096 is 2 GiB: larger than a bucket, and tall. Its Gram matrix is 64 MiB."""
    layout = chunked_layout([Matrix("head", 131072, 4096), Matrix("up", 11008, 4096)],
                            [131072 * 512, 11008 * 512], 8)  # fmt: skip
    assert make_plan(layout, NewtonSchulz()).strategies == ("gram", "owner")
    # The SVD needs all of it in one place.
    assert make_plan(layout, SVD()).strategies == ("owner", "owner")


def test_a_strategy_that_cannot_work_is_refused() -> None:
    """Gram works on rows of tall matrices, from the Gram matrix."""
    layout = chunked_layout([Matrix("wide", 4, 8)], [16], 2)
    forced = ExchangeSettings(exchange_strategy={"wide": "gram"})
    with pytest.raises(ValueError, match="'wide' is 4 x 8"):
        make_plan(layout, NewtonSchulz(), forced)
    with pytest.raises(ValueError, match="'svd' does not"):
        make_plan(layout, SVD(), forced)


def test_digest_tells_plans_apart() -> None:
    """Equal for equal layouts, different when a name, a shape or a cut differs."""
    layouts_ = [
        contiguous_layout([Matrix("a", 4, 6)], [0], 12, 2),
        contiguous_layout([Matrix("b", 4, 6)], [0], 12, 2),
        contiguous_layout([Matrix("a", 6, 4)], [0], 12, 2),
        contiguous_layout([Matrix("a", 4, 6)], [0], 14, 2),
        chunked_layout([Matrix("a", 4, 6)], [12], 2),
    ]
    digests = [make_plan(layout, NewtonSchulz()).digest() for layout in layouts_]
    assert len(set(digests)) == 4 and digests[0] == digests[4]
    assert digests[0] == make_plan(layouts_[0], NewtonSchulz()).digest()
    assert all(0 <= digest < 2**63 for digest in digests)


def test_costly_matrices_go_to_idle_holders() -> None:
    """Rank 1 already has a whole matrix; the cut one goes to rank 0, which has none."""
    layout = contiguous_layout([Matrix("cut", 5, 4), Matrix("whole", 3, 4)], [0, 20], 16, 2)
    assert make_plan(layout, NewtonSchulz()).owners == (0, 1)


def test_collectives_do_not_grow_with_layers() -> None:
    """While a bucket has room, more matrices of a shape travel in the same pair of collectives."""
    for layers in (2, 4, 8):
        matrices = llama("130m")[: 7 * layers]
        chunks = [m.numel // 64 for m in matrices]
        assert len(make_plan(chunked_layout(matrices, chunks, 64), NewtonSchulz()).rounds) == 1
