"""Is there enough memory? Checked before a measurement, and watched during it.

A process that fills the memory of a machine gets no error: the system kills it, or another one.
"""

import os
import sys
import threading
import time
from pathlib import Path

import torch

from gradopt_ds.experiments.common.control_groups import allowed_bytes
from gradopt_ds.memory.estimate import Estimate
from gradopt_ds.memory.moments import resident_bytes

IMPORTS = 800 * 2**20
"""Bytes of a process that has imported torch, DeepSpeed and transformers."""
SHARE = 0.95
"""Of what is available; the rest is for what is not counted."""
INTERVAL = 0.05  # seconds
OUT_OF_MEMORY = 3
MEMINFO = Path("/proc/meminfo")


class NotEnoughMemoryError(RuntimeError):
    """The estimate exceeds what is available; the message says by how much."""


def available_bytes() -> int:
    """Count the bytes of memory that can be had without swapping, in a container or job too."""
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    there = int(lines["MemAvailable"].split()[0]) * 1024
    allowed = allowed_bytes()
    return there if allowed is None else min(there, allowed)


def check(name: str, estimate: Estimate, ranks: int) -> None:
    """Refuse what would not fit.

    Raises:
        NotEnoughMemoryError: on the CPU all ranks together need more than is available; on CUDA
            devices one rank needs more than its device has.
    """
    if torch.cuda.is_available():
        needed, there = estimate.accelerator, int(SHARE * torch.cuda.mem_get_info()[0])
        where = "on the device"
    else:
        needed, there = ranks * (estimate.total + IMPORTS), int(SHARE * available_bytes())
        where = f"for {ranks} rank(s), imports included,"
    if needed > there:
        raise NotEnoughMemoryError(
            f"{name} is not run: it would need {needed / 2**30:.1f} GiB {where} and "
            f"{there / 2**30:.1f} GiB can be had. Take a smaller model, more ranks on more "
            "machines, or another stage, precision or optimizer"
        )


def watch_residence(ranks: int) -> None:
    """End this process, with a message, before it takes more than its part of the host's memory.

    The estimate does not know what building an engine takes, and may be wrong.
    """
    if torch.cuda.is_available():
        return
    most = int(SHARE * available_bytes() / ranks) + resident_bytes()
    threading.Thread(target=_watch, args=(most,), daemon=True).start()


def _watch(most: int) -> None:
    while True:
        if (held := resident_bytes()) > most:
            print(
                f"stopped: this rank holds {held / 2**30:.1f} GiB, and {most / 2**30:.1f} GiB is "
                "its part of the machine's memory",
                file=sys.stderr,
                flush=True,
            )
            os._exit(OUT_OF_MEMORY)
        time.sleep(INTERVAL)
