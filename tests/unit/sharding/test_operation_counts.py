"""Operations of one rank's step of 168 matrices at stage 3, on any number of simulated ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from gradopt_ds import SWAN, MatrixOptimizer, Muon, PolarGrad
from gradopt_ds.matrices import RowShards
from gradopt_ds.ops import PolarExpress
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.sharding import (
    Exchange,
    Layout,
    Matrix,
    ShardedMatrixMap,
    chunked_layout,
    make_plan,
)
from tests.unit.counted import DispatchedOperations

H, KEY, F, LAYERS = 64, 32, 160, 24
"""Hidden size, width of keys and values, intermediate size: matrices of four shapes."""
SHAPES = [(H, H), (KEY, H), (KEY, H), (H, H), (F, H), (F, H), (H, F)] * LAYERS
WORLDS = [8, 64, 512]


def stage_3(world_size: int) -> Layout:
    matrices = [Matrix(str(index), *shape) for index, shape in enumerate(SHAPES)]
    return chunked_layout(matrices, [-(-m.numel // world_size) for m in matrices], world_size)


@contextmanager
def busy_rank(world_size: int) -> Iterator[tuple[nn.Parameter, ShardedMatrixMap]]:
    """A rank that puts a matrix together, its slice; its collectives return at once."""
    layout = stage_3(world_size)
    plan = make_plan(layout, PolarExpress())
    dist.init_process_group("fake", store=FakeStore(), rank=plan.owners[0], world_size=world_size)
    try:
        param = nn.Parameter(torch.ones(layout.slice_size))
        param.grad = torch.ones(layout.slice_size)
        yield param, ShardedMatrixMap({param: Exchange(plan, dist.group.WORLD)})
    finally:
        dist.destroy_process_group()


def counted(optimizer: MatrixOptimizer, matrix_map: ShardedMatrixMap) -> DispatchedOperations:
    optimizer.matrix_map = matrix_map
    optimizer.step()  # makes the state
    with DispatchedOperations() as operations:
        optimizer.step()
    return operations


def groups(param: nn.Parameter) -> list[dict[str, Any]]:
    return [{"params": [param], "rule": MATRIX, "blocks": [[]]}]


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (SWAN, {}),
        (PolarGrad, {}),
        (PolarGrad, {"momentum_order": "polar_first"}),
        (Muon, {"weight_decay": 0.1}),
    ],
)
def test_a_step_is_few_operations(
    optimizer: Any, settings: dict[str, Any], world_size: int
) -> None:
    with busy_rank(world_size) as (param, matrix_map):
        found = counted(optimizer(groups(param), **settings), matrix_map)
    assert 0 < found.total <= 250, found.names


class NoRule(PolarGrad):
    """Everything of a step but the mathematics."""

    def _matrix_rule(
        self, matrices: Tensor, across: RowShards, group: Any
    ) -> tuple[Tensor, Tensor]:
        return matrices, matrices.new_ones(len(matrices))


@pytest.mark.parametrize("world_size", WORLDS)
def test_the_exchange_by_hand(world_size: int) -> None:
    """Nothing is done for each piece: what grows is one stack, and one fill, for each shape."""
    with busy_rank(world_size) as (param, matrix_map):
        found = counted(NoRule(groups(param), weight_decay=0.1), matrix_map)
        exchange = matrix_map.exchanges[param]
        layout = exchange.plan.layout
        owned = [i for i, owner in enumerate(exchange.plan.owners) if owner == exchange.rank]
        shapes = [(layout.matrices[i].rows, layout.matrices[i].columns) for i in owned]
    assert len(exchange.traffic) == 1, "one round"
    names = {name.removeprefix("aten::"): n for name, n in found.names.items()}
    expected = {
        "_foreach_lerp_": 1,  # momentum
        "_foreach_copy_": 4,  # into what is sent, from what is kept, from what is received, back
        "c10d::alltoall_base_": 2,
        "new_ones": len(set(shapes)),  # the rule's scales
        # Matrices of one shape, and the scales of what is kept here.
        "stack": sum(shapes.count(shape) > 1 for shape in set(shapes)) + 1,
        "cat": 1,  # the scales of what comes back
        "mul": 2,  # scales times lr: of what is kept here, of what comes back
        "_foreach_mul_": 4,  # both times these, and the decay of both
        "_foreach_sub_": 2,
    }
    assert {name: names.get(name, 0) for name in expected} == expected
    assert found.total == sum(expected.values())
