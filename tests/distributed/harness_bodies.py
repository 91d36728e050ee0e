"""Bodies that go wrong in every way, for ``test_harness.py``."""

import os
import signal
import time

import torch
import torch.distributed as dist

from tests.distributed.harness import distributed, record


def passes() -> None:
    """All ranks meet."""
    total = torch.ones(1)
    dist.all_reduce(total)
    record(size=total.item(), rank=dist.get_rank())
    assert total.item() == dist.get_world_size()


def fails_everywhere() -> None:
    """The ranks stay in step."""
    raise ValueError(f"rank {dist.get_rank()} cannot")


def fails_on_rank_1() -> None:
    """The others wait for it."""
    if dist.get_rank() == 1:
        raise ValueError("rank 1 alone")
    dist.barrier()


def is_killed_on_rank_1() -> None:
    """As by the system when memory runs out."""
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


@distributed(2, dying=1)
def survives() -> None:
    """Although rank 1 was to die."""


def hangs() -> None:
    """Rank 0 does not come."""
    if dist.get_rank() == 0:
        time.sleep(1000)
    dist.barrier()
