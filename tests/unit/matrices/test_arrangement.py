"""Interwoven and transposed matrices: the rule sees each of them, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds.matrices import Arrangement, Block, ExchangeSettings, RowShards, WholeMatrixMap
from gradopt_ds.matrices.arrangement import arranged
from gradopt_ds.ops import make_oracle
from gradopt_ds.sharding import Matrix, contiguous_layout, make_plan, tensor_parallel_layout
from gradopt_ds.sharding.column_parts import on_parts

HEADS, SIZE, INPUTS = 3, 2, 5
PER_HEAD = Arrangement((SIZE, SIZE, SIZE))
ROWS = 3 * HEADS * SIZE


def rule(matrices: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
    """Tell rows from columns, and each matrix from all others."""
    centred = matrices - matrices.mean(dim=-1, keepdim=True)
    return centred / matrices.norm(dim=(-2, -1), keepdim=True), matrices.abs().sum(dim=(-2, -1))


def by_hand(matrix: np.ndarray) -> np.ndarray:
    """The update of one matrix ``[outputs, inputs]`` by that rule."""
    centred = matrix - matrix.mean(axis=1, keepdims=True)
    updated: np.ndarray = centred / np.linalg.norm(matrix) * np.abs(matrix).sum()
    return updated


def updates(blocks: list[Block], param: Tensor) -> np.ndarray:
    """What the map of whole parameters makes of a gradient like ``param``."""
    result = torch.zeros_like(param)
    for update in WholeMatrixMap({param: blocks})([param], [param], rule):
        parts = update.parts_of(lambda _: result)
        for part, direction, scale in zip(parts, update.directions, update.scales, strict=True):
            part.add_(direction * scale)
    return result.numpy()


@given(groups=st.integers(1, 4), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
       transposed=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
def test_each_matrix_is_updated_alone(
    groups: int, sizes: list[int], transposed: bool, seed: int
) -> None:
    """Against rows picked by index, in two blocks behind one another."""
    outputs = groups * sum(sizes)
    shape = (2, INPUTS, outputs) if transposed else (2, outputs, INPUTS)
    param = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    arrangement = Arrangement(tuple(sizes), transposed)
    step = param[0].numel()
    blocks = [Block(i * step, shape[1], shape[2], arrangement) for i in range(2)]
    owner = np.tile(np.repeat(np.arange(len(sizes)), sizes), groups)
    expected = np.zeros(shape)
    for stored, target in zip(param.numpy(), expected, strict=True):
        weight, result = (stored.T, target.T) if transposed else (stored, target)
        for index in range(len(sizes)):
            result[owner == index] = by_hand(weight[owner == index])
    np.testing.assert_allclose(updates(blocks, param), expected, rtol=1e-12)
    assert blocks[0].shapes == tuple((groups * size, INPUTS) for size in sizes)
    for index, matrix in enumerate(blocks[1].matrices(param.flatten())):
        weight = param[1].numpy().T if transposed else param[1].numpy()
        np.testing.assert_array_equal(matrix.numpy(), weight[owner == index])


def test_nan_and_zeros_stay_in_their_matrix() -> None:
    """Queries that are NaN, keys without a gradient: the values are updated as ever."""
    param = torch.randn(ROWS, INPUTS, dtype=torch.double)
    queries, keys, values = PER_HEAD.views(param)
    queries[0, 0, 0], expected = float("nan"), by_hand(values.reshape(-1, INPUTS).numpy())

    def zero_safe(matrices: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
        directions, scales = rule(matrices, across)
        return torch.where(scales[:, None, None] == 0, 0.0, directions), scales

    keys.zero_()
    directions, scales = arranged(zero_safe, PER_HEAD)(param[None], None)  # type: ignore[arg-type]
    of_queries, of_keys, of_values = PER_HEAD.views(directions[0] * scales[0])
    assert of_queries.isnan().all() and not of_keys.any()
    np.testing.assert_allclose(of_values.reshape(-1, INPUTS).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("sizes", [(4,), (), (0, 3), (2, 2, 3)])
def test_groups_must_add_up(sizes: tuple[int, ...]) -> None:
    """Six outputs are not groups of four."""
    with pytest.raises(ValueError, match="6 outputs are not groups of"):
        Block(0, 6, 5, Arrangement(sizes))


def test_interwoven_rows_are_never_left_where_they_are() -> None:
    """Tall and larger than a bucket, or asked for: the weight goes to one owner."""
    matrix = Matrix("qkv", 90, INPUTS, PER_HEAD)
    layout = contiguous_layout([matrix], [0], 225, 2)
    small = ExchangeSettings(exchange_bucket_size=4)
    assert make_plan(layout, make_oracle("eigh"), small).strategies == ("owner",)
    gram = ExchangeSettings(exchange_strategy={"qkv": "gram"})
    with pytest.raises(ValueError, match="'qkv' are interwoven or stored as columns"):
        make_plan(layout, make_oracle("eigh"), gram)


def test_the_planner_counts_the_matrices_and_not_their_block() -> None:
    """Three of 30 rows, not one of 90."""
    layout = contiguous_layout([Matrix("qkv", 90, INPUTS, PER_HEAD)], [0], 225, 2)
    oracle = make_oracle("polar_express")
    assert sum(make_plan(layout, oracle).flops) == 3 * oracle.flops(30, INPUTS)


def test_tensor_parallel_parts_must_be_interwoven_alike() -> None:
    """Whole heads on each rank: the joint weight is read like each part."""
    one = contiguous_layout([Matrix("qkv", ROWS, INPUTS, PER_HEAD)], [0], ROWS * INPUTS, 1)
    other = contiguous_layout([Matrix("qkv", ROWS, INPUTS)], [0], ROWS * INPUTS, 1)
    joint = tensor_parallel_layout([one, one], [0])
    assert joint.matrices == (Matrix("qkv", 2 * ROWS, INPUTS, PER_HEAD),)
    with pytest.raises(ValueError, match="'qkv': its parts .* interwoven in different ways"):
        tensor_parallel_layout([one, other], [0])


def test_columns_that_tensor_parallelism_has_cut_are_joined_first() -> None:
    """Then the matrices are told apart, and all goes back the same way."""
    whole = torch.randn(1, ROWS, INPUTS, dtype=torch.double)
    flat = torch.cat([part.flatten() for part in whole[0].split([2, 3], dim=1)])[None]
    directions, scales = on_parts(arranged(rule, PER_HEAD), [2, 3])(flat, None)  # type: ignore[arg-type]
    expected, expected_scales = arranged(rule, PER_HEAD)(whole, None)  # type: ignore[arg-type]
    parts = [part.flatten() for part in expected[0].split([2, 3], dim=1)]
    torch.testing.assert_close(directions[0], torch.cat(parts), rtol=0, atol=0)
    assert scales == expected_scales
