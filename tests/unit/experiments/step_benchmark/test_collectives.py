"""Bytes of collectives on simulated ranks, by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from gradopt_ds.experiments.step_benchmark.collectives import CollectiveCounter

RANKS, RANK, N = 4, 1, 24


@pytest.fixture(autouse=True)
def fake_ranks():
    """Four ranks of which only one is here: the collectives return at once."""
    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=RANKS)
    yield
    dist.destroy_process_group()


def floats(n: int = N) -> Tensor:
    return torch.zeros(n)


CASES: dict[str, tuple[Callable[[], object], float]] = {
    # Reduce-scatter and all-gather, each 3/4 of the tensor.
    "allreduce_": (lambda: dist.all_reduce(floats()), 2 * 4 * N * 3 / 4),
    # Own part to three others, whichever of the three interfaces.
    "allgather_": (lambda: dist.all_gather([floats() for _ in range(RANKS)], floats()), 4 * N * 3),
    "_allgather_base_": (lambda: dist.all_gather_into_tensor(floats(4 * N), floats()), 4 * N * 3),
    "_reduce_scatter_base_": (
        lambda: dist.reduce_scatter_tensor(floats(), floats(4 * N)),
        4 * N * 3,
    ),
    "reduce_scatter_": (
        lambda: dist.reduce_scatter(floats(), [floats() for _ in range(RANKS)]),
        4 * N * 3,
    ),
    "broadcast_": (lambda: dist.broadcast(floats(), 0), 4 * N * 3 / 4),
    "reduce_": (lambda: dist.reduce(floats(), 0), 4 * N * 3 / 4),
    # What is in the split of rank 1 stays here.
    "alltoall_base_": (
        lambda: dist.all_to_all_single(floats(N), floats(16), [6] * 4, [1, 10, 2, 3]),
        4 * 6,
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_bytes_are_those_of_a_ring(kind: str) -> None:
    """And one call is one call."""
    call, sent = CASES[kind]
    with CollectiveCounter() as counter:
        call()
        torch.zeros(3).add_(1)
    assert dict(counter.calls) == {kind: 1}
    assert counter.sent == {kind: sent}


def test_equal_splits_and_half_precision() -> None:
    """Without splits each rank gets a quarter."""
    with CollectiveCounter() as counter:
        dist.all_to_all_single(torch.zeros(8, 5).bfloat16(), torch.zeros(8, 5).bfloat16())
    assert counter.sent == {"alltoall_base_": 2 * 6 * 5}


def test_barriers_send_nothing() -> None:
    """They are no collective of data."""
    with CollectiveCounter() as counter:
        dist.barrier()
    assert not counter.calls


def test_an_unknown_collective_is_not_passed_over() -> None:
    """Uncounted bytes would look like saved bytes."""
    parts = [floats() for _ in range(RANKS)]
    with CollectiveCounter(), pytest.raises(NotImplementedError, match="scatter_"):
        dist.scatter(floats(), parts, src=RANK)
