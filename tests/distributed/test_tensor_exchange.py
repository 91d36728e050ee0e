"""The exchange of matrices that tensor parallelism has cut before ZeRO, over real collectives."""

import random
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from gradopt_ds.matrices import ExchangeSettings, RowShards
from gradopt_ds.ops import Eigh, nuclear_norm
from gradopt_ds.sharding import (
    Exchange,
    Layout,
    Matrix,
    Piece,
    chunked_layout,
    contiguous_layout,
    make_plan,
    tensor_parallel_layout,
)
from tests import reference
from tests.distributed.exchange_memory import SHAPES, live_and_planned
from tests.distributed.harness import distributed

GRIDS = {2: [(2, 1)], 3: [(3, 1)], 4: [(2, 2), (4, 1)]}
"""Number of ranks → tensor- times data-parallel ones."""


def parts_of(whole: Tensor, axis: int | None, sizes: Sequence[int]) -> list[Tensor]:
    """What each tensor-parallel rank holds."""
    return [whole] * len(sizes) if axis is None else list(whole.split(list(sizes), axis))


def sizes_of(draw: random.Random, total: int, count: int) -> list[int]:
    """Some sizes of a total, one of them 0 at times."""
    edges = sorted(draw.randint(0, total) for _ in range(count - 1))
    return [b - a for a, b in zip([0, *edges], [*edges, total], strict=True)]


def column_layout(draw: random.Random, matrices: Sequence[Matrix], data: int) -> Layout:
    """Chunks or one flat tensor, padded."""
    if draw.random() < 0.3:
        chunks = [-(-m.numel // data) + draw.randint(0, 2) for m in matrices]
        return chunked_layout(matrices, chunks, data)
    *offsets, total = accumulate((m.numel + draw.randint(0, 3) for m in matrices), initial=0)
    return contiguous_layout(matrices, offsets, -(-total // data) + draw.randint(1, 4), data)


def rule(x: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
    """PolarGrad's, with an exact oracle."""
    direction = Eigh()(x, across)
    return direction, nuclear_norm(x, direction, across)


@distributed(2, 3, 4)
def test_random_parts_are_exchanged_exactly() -> None:
    """Each rank has its part of what numpy gives for whole matrices; copies have the same bits."""
    for seed in range(40):
        draw = random.Random(seed)
        tensor, data = draw.choice(GRIDS[dist.get_world_size()])
        data_rank, column = divmod(dist.get_rank(), tensor)
        shapes = [(draw.randint(1, 9), draw.randint(1, 9)) for _ in range(draw.randint(1, 5))]
        axes = [draw.choice([0, 1, None]) for _ in shapes]
        sizes = [
            [0] * tensor if axis is None else sizes_of(draw, shape[axis], tensor)
            for shape, axis in zip(shapes, axes, strict=True)
        ]
        numbers = torch.Generator().manual_seed(seed)
        wholes = [torch.randn(shape, generator=numbers, dtype=torch.float64) for shape in shapes]
        parts = [parts_of(*each) for each in zip(wholes, axes, sizes, strict=True)]
        stays = [m >= n and axis != 1 for (m, n), axis in zip(shapes, axes, strict=True)]
        columns = [
            column_layout(
                draw,
                [
                    Matrix(f"{'rows' if stay else 'whole'} {i}", *part[t].shape)
                    for i, (part, stay) in enumerate(zip(parts, stays, strict=True))
                ],
                data,
            )
            for t in range(tensor)
        ]
        chosen = ExchangeSettings(
            exchange_bucket_size=draw.choice([1, 4000, 2**29]),
            exchange_strategy=draw.choice([{}, {"rows *": "gram"}]),
        )
        plan = make_plan(tensor_parallel_layout(columns, axes), Eigh(), chosen)
        mine = columns[column]
        slice_ = torch.full((mine.slice_size,), torch.nan)  # padding must not be touched
        pieces = [mine.piece(index, data_rank) for index in range(len(shapes))]
        for index, piece in enumerate(pieces):
            if piece:
                flat = parts[index][column].flatten()
                slice_[piece.in_slice] = flat[piece.matrix_start : piece.matrix_stop].float()
        actual = torch.full_like(slice_, torch.nan)
        for updates in Exchange(plan, dist.group.WORLD)(actual, slice_, rule):
            for part, direction, scale in zip(
                updates.parts_of(lambda param: param),
                updates.directions,
                updates.scales,
                strict=True,
            ):
                assert part.isnan().all()  # once
                part.copy_(direction * scale)
        for index, piece in enumerate(pieces):
            expected = parts_of(update_of(wholes[index]), axes[index], sizes[index])[column]
            if piece:
                torch.testing.assert_close(
                    actual[piece.in_slice].double(),
                    expected.flatten()[piece.matrix_start : piece.matrix_stop],
                    rtol=1e-4,
                    atol=1e-4,
                )
            if axes[index] is None:
                assert_equal_copies(actual, piece, wholes[index].numel(), tensor)


def update_of(whole: Tensor) -> Tensor:
    """The truth, in float64."""
    return torch.from_numpy(reference.polar(whole.numpy()) * reference.nuclear(whole.numpy()))


def assert_equal_copies(actual: Tensor, piece: Piece | None, numel: int, tensor: int) -> None:
    """Put every tensor-parallel rank's copy together on all ranks, and compare their bits."""
    here = torch.zeros(numel)
    if piece:
        here[piece.matrix_start : piece.matrix_stop] = actual[piece.in_slice]
    everywhere = [torch.empty(numel) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, here)
    copies = torch.stack(everywhere).view(-1, tensor, numel).sum(0)
    assert copies.any() and torch.equal(copies, copies[:1].expand_as(copies))


@distributed(4)
def test_transient_bytes_are_bounded() -> None:
    """Parts of columns are put in shape, and copies get updates, within what the plan says."""
    axes = [(1, None, 0, 1)[i % 4] for i in range(len(SHAPES))]
    halves = {None: (1, 1), 0: (2, 1), 1: (1, 2)}
    matrices = [
        Matrix(str(i), m // halves[axis][0], n // halves[axis][1])
        for i, ((m, n), axis) in enumerate(zip(SHAPES, axes, strict=True))
    ]
    column = chunked_layout(matrices, [-(-m.numel // 2) for m in matrices], 2)
    layout = tensor_parallel_layout([column] * 2, axes)
    for bucket, live, planned in live_and_planned(layout):
        assert 0 < live <= planned, (live, planned, bucket)
