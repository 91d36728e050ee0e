"""A rank dies inside the exchange: the others stop with an error, the checkpoint is whole."""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from gradopt_ds.sharding.transfer import Transfer
from tests.distributed.engines import POLAR, assert_same, config, start, train, weights
from tests.distributed.harness import Job, distributed, folder

TIMEOUT = timedelta(seconds=20)


def engine() -> Any:
    """Small buckets, so that a rank can die between two rounds."""
    return start(config(params={**POLAR, "exchange_bucket_size": 12 * 4 * 150}, stage=3))


def saved_before() -> Path:
    """The checkpoint of the run that loses a rank."""
    return folder(f"{dist.get_world_size()}ranks", "before the fault")


@distributed(2, 3, dying=1)
def test_a_rank_dies_inside_the_exchange() -> None:
    """The others notice while pieces are on their way, within the timeout of the process group."""
    _set_pg_timeout(TIMEOUT)
    survivor = engine()
    train(survivor, range(1))
    survivor.save_checkpoint(str(saved_before()), tag="before")
    whole = weights(survivor)
    if dist.get_rank() == 0:
        torch.save(whole, saved_before() / "weights.pt")
    dist.barrier()
    if dist.get_rank() == 1:
        calls = iter(range(3))
        wait = Transfer.wait

        def dying(transfer: Transfer) -> Any:
            if next(calls) == 2:
                os._exit(0)
            return wait(transfer)

        Transfer.wait = dying  # type: ignore[method-assign]
    began = time.monotonic()
    with pytest.raises(RuntimeError):
        train(survivor, range(1, 2))
    assert time.monotonic() - began < TIMEOUT.total_seconds() + 5


@distributed(2, 3, needs=lambda ranks, _: Job(test_a_rank_dies_inside_the_exchange, ranks))
def test_the_run_is_taken_up_again() -> None:
    """The checkpoint from before is whole, and training goes on from it."""
    resumed = engine()
    resumed.load_checkpoint(str(saved_before()))
    assert_same(torch.load(saved_before() / "weights.pt"), weights(resumed))
    train(resumed, range(1, 2))
