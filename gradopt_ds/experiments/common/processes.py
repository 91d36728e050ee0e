"""The process group of a script's ranks."""

import contextlib
import io
import os
import warnings

import deepspeed
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.utils.logging import set_log_level_from_string

from gradopt_ds.experiments.common.shared_memory import require_shared_memory

MPI_SIZES = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}
"""What Open MPI's and MPICH's launchers set. Without it DeepSpeed must not look for MPI: it would
need mpi4py for a single process."""
ALONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",  # any free one
}
"""What a launcher would have set for a single process."""


def start_processes() -> None:
    """Join the ranks of DeepSpeed's launcher or of mpirun; one process alone is one rank."""
    set_log_level_from_string("warning")
    # DeepSpeed 0.19 calls collectives that torch 2.13 has renamed; nothing for our user to do.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    by_mpi = bool(MPI_SIZES & os.environ.keys())
    if not by_mpi and "RANK" not in os.environ:
        os.environ.update(ALONE)
    ranks = os.environ.get("WORLD_SIZE")
    if ranks and ranks == os.environ.get("LOCAL_SIZE") and get_accelerator().device_name() == "cpu":
        # Before the ranks join: they all see the same, and none is left waiting.
        require_shared_memory(int(ranks))
    # DeepSpeed prints on every rank that it built its CPU communication.
    with contextlib.redirect_stdout(io.StringIO()):
        deepspeed.init_distributed(auto_mpi_discovery=by_mpi)
    # DeepSpeed does so when an engine is built; collectives before would all take the first device.
    get_accelerator().set_device(int(os.environ.get("LOCAL_RANK", 0)))


def print_on_rank_0(message: str) -> None:
    """Print one line for all ranks, which have joined."""
    if dist.get_rank() == 0:
        print(message, flush=True)
