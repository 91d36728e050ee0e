"""What DeepSpeed's CPU communication leaves behind: 66 MiB of /dev/shm per rank and launch."""

from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def free_shared_memory(port: int) -> None:
    """Remove the buffers of a launch that has ended.

    DeepSpeed names them after the master port and never unlinks them; some hundred launches fill
    the memory of a small machine.

    Args:
        port: the launch's ``MASTER_PORT``.
    """
    for buffer in SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
        buffer.unlink(missing_ok=True)
