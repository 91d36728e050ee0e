"""The exchange of matrices cut twice, on simulated ranks."""

import threading
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from gradopt_ds.matrices import WHOLE, RowShards
from gradopt_ds.ops import PolarExpress
from gradopt_ds.sharding import (
    Exchange,
    Layout,
    Matrix,
    chunked_layout,
    contiguous_layout,
    make_plan,
    tensor_parallel_layout,
)
from tests.unit.counted import DispatchedOperations
from tests.unit.sharding.simulated_ranks import on_ranks, simulated_ranks  # noqa: F401  a fixture
from tests.unit.sharding.tensor_parallel_cases import TensorCase, tensor_cases
from tests.unit.sharding.test_tensor_parallel import BUCKETS, with_gram


def rule(matrices: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
    """What only the whole matrix can tell, by rows, by columns and by position."""
    by_column = across.sum(matrices.sum(-2, keepdim=True))
    by_row = matrices.sum(-1, keepdim=True)
    return matrices - by_column + 2 * by_row, across.sum(matrices.square().sum((-2, -1)))


@settings(max_examples=60, deadline=None)
@given(
    case=tensor_cases(),
    bucket=BUCKETS,
    wire=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_exchange_equals_the_whole_computation(
    case: TensorCase, bucket: int, wire: torch.dtype, seed: int
) -> None:
    """Every rank gets its part of the rule applied once to the whole matrix, padding nothing."""
    plan = with_gram(case, bucket)
    wholes = case.wholes(torch.Generator().manual_seed(seed))
    slices = case.slices(wholes, padding=torch.nan)
    applied: Counter[tuple[int, ...]] = Counter()
    lock = threading.Lock()

    def counting(matrices: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
        if across is WHOLE:
            with lock:
                applied[tuple(matrices.shape[1:])] += len(matrices)
        return rule(matrices, across)

    def work(rank: int) -> Tensor:
        param = torch.zeros_like(slices[rank])
        exchange = Exchange(plan, dist.group.WORLD, wire)
        for updates in exchange(param, slices[rank], counting):
            parts = updates.parts_of(lambda param: param)
            for part, direction, scale in zip(
                parts, updates.directions, updates.scales, strict=True
            ):
                part.add_(direction * scale)
        return param

    actual = on_ranks(plan.layout.world_size, work)
    updates = [direction * scale for direction, scale in (rule(x, WHOLE) for x in wholes)]
    for mine, expected in zip(actual, case.slices(updates, padding=0.0), strict=True):
        assert torch.equal(mine, expected)
    once = [m for m, s in zip(plan.layout.matrices, plan.strategies, strict=True) if s != "gram"]
    assert applied == Counter((m.rows, m.columns) for m in once)


@settings(max_examples=40, deadline=None)
@given(
    case=tensor_cases(),
    wire=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_copies_get_the_same_bits(case: TensorCase, wire: torch.dtype, seed: int) -> None:
    """Directions and scales, kept or received, rounded on the wire or not; whatever was gathered.

    What the copies' gradients differ by does not matter either: those of one are taken.
    """
    plan = with_gram(case)
    layout = plan.layout
    numbers = torch.Generator().manual_seed(seed)
    shape = (layout.world_size, layout.slice_size)
    slices = torch.randn(shape, generator=numbers)

    def thirds(matrices: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
        directions, scales = rule(matrices, across)
        return directions / 3, scales / 7

    def work(rank: int) -> Tensor:
        param, scales = torch.zeros(layout.slice_size), torch.zeros(layout.slice_size)
        for updates in Exchange(plan, dist.group.WORLD, wire)(param, slices[rank], thirds):
            for part, direction in zip(
                updates.parts_of(lambda param: param), updates.directions, strict=True
            ):
                part.copy_(direction)
            for part, scale in zip(
                updates.parts_of(lambda param: scales), updates.scales, strict=True
            ):
                part.copy_(scale)
        return torch.stack([param, scales])

    actual = torch.stack(on_ranks(layout.world_size, work))
    for index in range(len(layout.matrices)):
        copies = layout.copies(index)
        pieces = list(layout.pieces(index))
        whole = [
            torch.cat([actual[p.rank, :, p.in_slice] for p in pieces if p.rank % copies == copy], 1)
            for copy in range(copies)
        ]
        assert all(torch.equal(whole[0], other) for other in whole)
        assert whole[0].any()


H, KEY, F, LAYERS = 64, 32, 192, 24
"""Of a model whose matrices can be cut into 8 parts."""


def stage_1(tensor: int, data: int) -> Layout:
    """q, k, v, gate and up by rows, o and down by columns, a router copied."""
    shapes = [(H // tensor, H), (KEY // tensor, H), (KEY // tensor, H), (H, H // tensor)]
    shapes += [(F // tensor, H), (F // tensor, H), (H, F // tensor), (8, H)]
    matrices = [Matrix(f"{i}.{j}", *s) for i in range(LAYERS) for j, s in enumerate(shapes)]
    chunks = [-(-m.numel // data) for m in matrices]
    column = chunked_layout(matrices, chunks, data)
    return tensor_parallel_layout([column] * tensor, [0, 0, 0, 1, 0, 0, 1, None] * LAYERS)


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
@pytest.mark.parametrize("data", [8, 128])
def test_operations_do_not_grow_with_ranks(tensor: int, data: int) -> None:
    """By hand, whatever the number of ranks: nothing is done for each piece, copy or part.

    What grows is what this rank owns: a stack for each shape, and for one that is cut by columns
    a cat of its parts and a copy back into them.
    """
    layout = stage_1(tensor, data)
    plan = make_plan(layout, PolarExpress())
    rank = plan.owners[3]  # of a matrix that is cut by columns
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world_size)
    try:
        param, direction = torch.zeros(layout.slice_size), torch.zeros(layout.slice_size)
        exchange = Exchange(plan, dist.group.WORLD)
        with DispatchedOperations() as found:
            for _ in exchange(param, direction, lambda m, _: (m, m.new_ones(len(m)))):
                pass
    finally:
        dist.destroy_process_group()
    batches = Counter(
        (layout.matrices[i].rows, layout.matrices[i].columns, layout.widths(i), layout.copies(i))
        for i in plan.cut
        if plan.owners[i] == rank
    )
    by_columns = sum(bool(widths) for _, _, widths, _ in batches)
    assert len(plan.rounds) == 1 and (by_columns > 0) == (tensor > 1)
    expected = {
        "_foreach_copy_": 4 + by_columns,
        "c10d::alltoall_base_": 2,
        "new_ones": len(batches),  # the rule's scales
        "stack": sum(count > 1 for count in batches.values()) + 1,  # and the scales kept here
        "cat": 1 + by_columns,  # the scales of what comes back
    }
    names = {name.removeprefix("aten::"): n for name, n in found.names.items()}
    assert {name: names.get(name, 0) for name in expected} == expected
    assert found.total == sum(expected.values())


def test_a_column_part_alone_is_whole() -> None:
    """All columns on one of two tensor-parallel ranks, whole in its slice: nothing is sent."""
    columns = [contiguous_layout([Matrix("w", 3, n)], [0], 20, 1) for n in (0, 5)]
    plan = make_plan(tensor_parallel_layout(columns, [1]), PolarExpress())
    assert plan.strategies == ("local",) and plan.owners == (1,) and not plan.rounds
