"""Ranks that are threads of one process, with real collectives between them."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.multi_threaded_pg import (
    ProcessLocalGroup,
    _install_threaded_pg,
    _uninstall_threaded_pg,
)


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
