"""What travels between ranks, how much of it, and who computes what."""

import random
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gradopt_ds.matrices import WHOLE, ExchangeSettings, RowShards
from gradopt_ds.ops import Eigh, nuclear_norm
from gradopt_ds.sharding import (
    Exchange,
    Matrix,
    chunked_layout,
    contiguous_layout,
    make_plan,
)
from tests.distributed.cases import EVERY_PARAMETER_PARTITIONED
from tests.distributed.engines import Setting, matrix_optimizer, on_stages, start, train
from tests.distributed.exchange_memory import SHAPES, live_and_planned
from tests.distributed.harness import distributed
from tests.distributed.model import MATRICES
from tests.distributed.moe_model import build_moe


@contextmanager
def counted_all_to_all(sent: list[int]) -> Any:
    """Record the bytes that this rank hands to each all-to-all, its own part left out."""
    original = dist.all_to_all_single

    def counting(output: Tensor, input_: Tensor, out: Any, in_: Any, **kwargs: Any) -> Any:
        assert in_[dist.get_rank(kwargs["group"])] == 0
        sent.append(input_.numel() * input_.element_size())
        return original(output, input_, out, in_, **kwargs)

    dist.all_to_all_single = counting
    try:
        yield
    finally:
        dist.all_to_all_single = original


@distributed(
    2, 3, cases=[*on_stages(1, 2, 3), Setting(stage=3, extra={"zero": {"sub_group_size": 150}})]
)
def test_one_oracle_call_per_matrix_and_step(case: Setting) -> None:
    """Whatever the accumulation, and together over all ranks, not on each."""
    engine = start(case.config(gradient_accumulation_steps=3))
    optimizer = matrix_optimizer(engine)
    rule, matrices = optimizer._matrix_rule, torch.zeros(1)

    def counting(
        batch: Tensor, across: RowShards, group: Any, rule: Any = rule, count: Any = matrices
    ) -> tuple[Tensor, Tensor]:
        count.add_(batch.shape[0])
        return rule(batch, across, group)

    optimizer._matrix_rule = counting  # type: ignore[method-assign]
    train(engine, range(2))
    dist.all_reduce(matrices)
    assert matrices.item() == 2 * len(MATRICES)


@distributed(
    2, 3, cases=[*on_stages(1, 2), Setting(stage=3, extra={"zero": EVERY_PARAMETER_PARTITIONED})]
)
def test_every_expert_gets_one_oracle_call(case: Setting) -> None:
    """Ten gates and ups, five downs, four of attention, three of the shared expert; and batched."""
    engine = start(case.config(), model=build_moe())
    optimizer = matrix_optimizer(engine)
    rule, matrices, calls = optimizer._matrix_rule, torch.zeros(1), []

    def counting(
        batch: Tensor,
        across: RowShards,
        group: Any,
        rule: Any = rule,
        count: Any = matrices,
        calls: Any = calls,
    ) -> tuple[Tensor, Tensor]:
        count.add_(batch.shape[0])
        calls.append(tuple(batch.shape[1:]))
        return rule(batch, across, group)

    optimizer._matrix_rule = counting  # type: ignore[method-assign]
    train(engine, range(1))
    dist.all_reduce(matrices)
    assert matrices.item() == 10 + 5 + 4 + 3
    # Once for the matrices that are whole here, once for those that are put together here.
    assert max(calls.count(shape) for shape in calls) <= 2
    cut = {
        matrix.name
        for exchange in optimizer.matrix_map.exchanges.values()  # type: ignore[attr-defined]
        for index, matrix in enumerate(exchange.plan.layout.matrices)
        if exchange.plan.strategies[index] != "local"
    }
    assert any(".experts." in name for name in cut)


@distributed(2, 3, cases=on_stages(1, 2, 3))
def test_only_cut_matrices_travel(case: Setting) -> None:
    """Two collectives a step for a group, carrying just the foreign pieces and scales."""
    engine = start(case.config())
    exchanges = list(matrix_optimizer(engine).matrix_map.exchanges.values())  # type: ignore[attr-defined]
    train(engine, range(1))
    sent: list[int] = []
    with counted_all_to_all(sent):
        train(engine, range(1, 2))
    assert len(exchanges) == 1 and len(sent) == 2
    plan = exchanges[0].plan
    assert len(plan.cut) == len(MATRICES) if case.stage == 3 else len(plan.cut) < len(MATRICES)
    assert sum(sent) == plan.bytes_sent(dist.get_rank())
    total = torch.tensor(float(sum(sent)))
    dist.all_reduce(total)
    # To the owner and back, at most all of a cut matrix but its owner's piece, and a scale.
    foreign = [p for i in plan.cut for p in plan.layout.pieces(i) if p.rank != plan.owners[i]]
    assert total == 4 * sum(2 * piece.length + 1 for piece in foreign)


@distributed(2, 3)
def test_random_layouts_are_exchanged_exactly() -> None:
    """Shapes, cuts, buckets and strategies at random, over real collectives."""
    for seed in range(60):
        draw = random.Random(seed)
        world_size, rank = dist.get_world_size(), dist.get_rank()
        shapes = [(draw.randint(1, 9), draw.randint(1, 9)) for _ in range(draw.randint(1, 6))]
        matrices = [Matrix("tall" if m >= n else "wide", m, n) for m, n in shapes for _ in range(2)]
        if draw.random() < 0.5:
            chunks = [-(-m.numel // world_size) + draw.randint(0, 2) for m in matrices]
            layout = chunked_layout(matrices, chunks, world_size)
        else:
            offsets = [0, *accumulate(m.numel + draw.randint(0, 3) for m in matrices)]
            size = -(-offsets.pop() // world_size) + draw.randint(0, 4)
            layout = contiguous_layout(matrices, offsets, size, world_size)
        chosen = ExchangeSettings(
            exchange_bucket_size=draw.choice([1, 4000, 2**29]),
            exchange_strategy=draw.choice([{}, {"tall": "gram"}]),
        )
        numbers = torch.Generator().manual_seed(seed)
        wholes = [torch.randn(m.rows, m.columns, generator=numbers) for m in matrices]
        slice_ = torch.full((layout.slice_size,), torch.nan)  # padding must not be touched
        for index, whole in enumerate(wholes):
            if piece := layout.piece(index, rank):
                slice_[piece.in_slice] = whole.flatten()[piece.matrix_start : piece.matrix_stop]
        oracle = Eigh()
        exchange = Exchange(make_plan(layout, oracle, chosen), dist.group.WORLD)

        def rule(x: Tensor, across: RowShards, oracle: Eigh = oracle) -> tuple[Tensor, Tensor]:
            polar = oracle(x, across)
            return polar, nuclear_norm(x, polar, across)

        actual = torch.full_like(slice_, torch.nan)
        for updates in exchange(actual, slice_, rule):
            parts = updates.parts_of(lambda param: param)
            for part, direction, scale in zip(
                parts, updates.directions, updates.scales, strict=True
            ):
                part.copy_(direction * scale)
        for index, whole in enumerate(wholes):
            polar, norm = rule(whole, WHOLE)
            if piece := layout.piece(index, rank):
                expected = (polar * norm).flatten()[piece.matrix_start : piece.matrix_stop]
                torch.testing.assert_close(actual[piece.in_slice], expected, rtol=1e-4, atol=1e-4)


@distributed(2, 3)
def test_transient_bytes_are_bounded() -> None:
    """Exchange and rule together stay within the bucket, or within 12 copies of one matrix."""
    matrices = [Matrix(str(i), *shape) for i, shape in enumerate(SHAPES)]
    chunks = [-(-m.numel // dist.get_world_size()) for m in matrices]
    layout = chunked_layout(matrices, chunks, dist.get_world_size())
    largest = 12 * 4 * max(matrix.numel for matrix in matrices)
    for bucket, live, planned in live_and_planned(layout):
        assert 0 < live <= planned <= max(bucket, largest), (live, planned, bucket)
