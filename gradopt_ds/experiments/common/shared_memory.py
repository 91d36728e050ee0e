"""What DeepSpeed's CPU communication leaves behind: 66 MiB of /dev/shm per rank and launch."""

import shutil
from pathlib import Path

from gradopt_ds.experiments.common.errors import PretrainError

SHARED_MEMORY = Path("/dev/shm")

MIB = 2**20
BYTES_PER_RANK = 66 * MIB


def require_shared_memory(ranks: int) -> None:
    """Refuse to start ranks on one CPU machine whose communication would not get its buffers.

    DeepSpeed writes them without looking at the result, and a rank ends by SIGBUS, without a word.

    Raises:
        PretrainError: the buffers of all ranks do not fit.
    """
    if not SHARED_MEMORY.is_dir():
        return
    needed, free = ranks * BYTES_PER_RANK, shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise PretrainError(
            f"{SHARED_MEMORY} has {free // MIB} MiB left, and DeepSpeed's CPU communication takes "
            f"{needed // MIB} for {ranks} rank(s): enlarge it (docker run --shm-size=1g), remove "
            f"what ended launches have left (rm {SHARED_MEMORY}/deepspeed_allreduce_buffer_*), or "
            "start fewer ranks"
        )


def free_shared_memory(port: int) -> None:
    """Remove the buffers of a launch that has ended.

    DeepSpeed names them after the master port and never unlinks them; some hundred launches fill
    the memory of a small machine.

    Args:
        port: the launch's ``MASTER_PORT``.
    """
    for buffer in SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
        buffer.unlink(missing_ok=True)
