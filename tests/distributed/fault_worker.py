"""A rank dies inside the exchange; see ``test_faults.py``."""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from gradopt_ds.sharding.transfer import Transfer
from tests.distributed.behaviour_worker import POLAR, config, start, train, weights

TIMEOUT = timedelta(seconds=20)


def engine() -> Any:
    """Small buckets, so that a rank can die between two rounds."""
    return start(config(params={**POLAR, "exchange_bucket_size": 12 * 4 * 150}, stage=3))


def die(folder: Path) -> dict[str, Any]:
    """Save, then lose rank 1 while pieces are on their way; what the others notice, and when."""
    survivor = engine()
    train(survivor, range(1))
    survivor.save_checkpoint(str(folder), tag="before")
    torch.save(weights(survivor), folder / "weights.pt")
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
    try:
        train(survivor, range(1, 2))
    except RuntimeError as error:
        return {"error": str(error), "seconds": time.monotonic() - began}
    return {"error": ""}


def resume(folder: Path) -> dict[str, Any]:
    """The checkpoint from before is whole, and training goes on from it."""
    resumed = engine()
    resumed.load_checkpoint(str(folder))
    saved, loaded = torch.load(folder / "weights.pt"), weights(resumed)
    train(resumed, range(1, 2))
    return {"intact": all(torch.equal(saved[name], loaded[name]) for name in saved)}


def main() -> None:
    """Run the phase that the second argument names, in the folder of the third."""
    torch.set_num_threads(1)
    deepspeed.init_distributed(dist_backend="gloo", timeout=TIMEOUT, verbose=False)
    result = {"die": die, "resume": resume}[sys.argv[2]](Path(sys.argv[3]))
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(result))
    # Without the usual goodbyes: a group with a dead member has none.
    os._exit(0)


if __name__ == "__main__":
    main()
