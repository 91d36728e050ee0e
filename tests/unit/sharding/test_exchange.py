"""The exchange on simulated ranks: threads in one process, real collectives between them."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing._internal.distributed.multi_threaded_pg import (
    ProcessLocalGroup,
    _install_threaded_pg,
    _uninstall_threaded_pg,
)

from gradopt_ds.sharding import Exchange, Layout, ShardedMatrixMap, make_plan
from tests.unit.sharding.strategies import layouts
from tests.unit.sharding.test_plan import flops


@pytest.fixture(autouse=True)
def simulated_ranks() -> Iterator[None]:
    """Let every thread be a rank."""
    _install_threaded_pg()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    yield
    torch._C._distributed_c10d._set_thread_isolation_mode(False)
    _uninstall_threaded_pg()


def on_ranks(world_size: int, work: Callable[[int], Tensor]) -> list[Tensor]:
    """Run ``work(rank)`` on simulated ranks; return the results in order of rank."""
    results: dict[int, Tensor] = {}
    errors: list[BaseException] = []
    store = dist.HashStore()

    def run(rank: int) -> None:
        try:
            dist.init_process_group("threaded", rank=rank, world_size=world_size, store=store)
            results[rank] = work(rank)
        except BaseException as error:
            errors.append(error)
            ProcessLocalGroup.exception_handle(error)
        finally:
            dist.destroy_process_group()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ProcessLocalGroup.reset()
    if errors:
        raise errors[0]
    return [results[rank] for rank in range(world_size)]


def rule(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Something that only the whole matrix can tell: cumulative sums, and the total."""
    return matrices.cumsum(-1).cumsum(-2), matrices.sum((-2, -1))


@settings(max_examples=40, deadline=None)
@given(layout=layouts(), seed=st.integers(0, 2**16))
def test_exchange_equals_the_whole_computation(layout: Layout, seed: int) -> None:
    """Each piece gets its part of the rule applied to the whole matrix, bit by bit."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layout.world_size, layout.slice_size)
    slices = torch.randn(shape, generator=generator)
    plan = make_plan(layout, flops)

    def work(rank: int) -> Tensor:
        param = torch.zeros(layout.slice_size)
        matrix_map = ShardedMatrixMap({param: Exchange(plan, dist.group.WORLD)})
        for update in matrix_map([param], [slices[rank]], rule):
            update.target(param).add_(update.direction * update.scale)
        return param

    expected = torch.zeros(shape)
    for matrix, pieces in zip(layout.matrices, layout.pieces, strict=True):
        flat = torch.cat([slices[p.rank, p.in_slice] for p in pieces])
        direction, scale = rule(flat.view(1, matrix.rows, matrix.columns))
        update = (direction * scale).flatten()
        for piece in pieces:
            expected[piece.rank, piece.in_slice] = update[piece.in_matrix]
    found = torch.stack(on_ranks(layout.world_size, work))
    assert torch.equal(found, expected)


def test_an_unknown_slice_is_refused() -> None:
    """A parameter group added after deepspeed.initialize has no layout."""
    with pytest.raises(RuntimeError, match="no layout is known"):
        next(ShardedMatrixMap({})([torch.zeros(5)], [torch.zeros(5)], rule))
