"""The exchange on simulated ranks: threads in one process, real collectives between them."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds.matrices import WHOLE, ExchangeSettings, RowShards
from gradopt_ds.ops import PolarExpress
from gradopt_ds.sharding import (
    Exchange,
    Layout,
    Matrix,
    ShardedMatrixMap,
    contiguous_layout,
    make_plan,
)
from tests.unit.sharding.simulated_ranks import on_ranks, simulated_ranks  # noqa: F401  a fixture
from tests.unit.sharding.strategies import exchange_settings, layouts


def rule(matrices: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
    """Something that only the whole matrix can tell: every element less its column's sum."""
    totals = across.sum(matrices.sum(-2, keepdim=True))
    return matrices - totals, across.sum(matrices.square().sum((-2, -1)))


@settings(max_examples=60, deadline=None)
@given(
    layout=layouts(),
    chosen=exchange_settings(),
    wire=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_exchange_equals_the_whole_computation(
    layout: Layout, chosen: ExchangeSettings, wire: torch.dtype, seed: int
) -> None:
    """Each piece gets its part of the rule applied to the whole matrix.

    The elements are small integers, so that sums are exact in any order and in bfloat16.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (layout.world_size, layout.slice_size)
    slices = torch.randint(-1, 2, shape, generator=generator).float()
    plan = make_plan(layout, PolarExpress(), chosen)

    def work(rank: int) -> Tensor:
        param = torch.zeros(layout.slice_size)
        exchange = Exchange(plan, dist.group.WORLD, wire)
        for updates in ShardedMatrixMap({param: exchange})([param], [slices[rank]], rule):
            parts = updates.parts_of(lambda param: param)
            for part, direction, scale in zip(
                parts, updates.directions, updates.scales, strict=True
            ):
                part.add_(direction * scale)
        return param

    expected = torch.zeros(shape)
    for index, matrix in enumerate(layout.matrices):
        pieces = list(layout.pieces(index))
        flat = torch.cat([slices[p.rank, p.in_slice] for p in pieces])
        direction, scale = rule(flat.view(matrix.rows, matrix.columns), WHOLE)
        update = (direction * scale).flatten()
        for piece in pieces:
            part = update[piece.matrix_start : piece.matrix_stop]
            expected[piece.rank, piece.in_slice] = part
    actual = torch.stack(on_ranks(layout.world_size, work))
    assert torch.equal(actual, expected)


def test_scales_travel_exactly() -> None:
    """In bfloat16 the owner's pieces and the others' are scaled by the same number."""
    layout = contiguous_layout([Matrix("cut", 4, 4)], [0], 8, 2)
    plan = make_plan(layout, PolarExpress())
    scale = torch.tensor([1 / 3])

    def work(rank: int) -> Tensor:
        param = torch.zeros(8)
        exchange = Exchange(plan, dist.group.WORLD, torch.bfloat16)
        updates = exchange(param, torch.ones(8), lambda m, _: (torch.ones_like(m), scale))
        return torch.cat([update.scales for update in updates])

    assert torch.equal(torch.cat(on_ranks(2, work)), scale.expand(2))


def test_an_unknown_slice_is_refused() -> None:
    """A parameter group added after deepspeed.initialize has no layout."""
    with pytest.raises(RuntimeError, match="no layout is known"):
        next(ShardedMatrixMap({})([torch.zeros(5)], [torch.zeros(5)], rule))
