"""Memory of every rank: by category after the first step, and the peak at the end."""

import json
from pathlib import Path
from typing import Any

import deepspeed.comm as dist

from gradopt_ds.experiments.pretrain.run import Run
from gradopt_ds.memory.live import live_bytes
from gradopt_ds.memory.moments import peak_bytes

FILE = "memory.jsonl"


def log_held(run: Run) -> None:
    """Return one row per rank: bytes of weights, masters, state, …, as they are now. Collective."""
    # A run that starts afresh begins a new file; one that goes on adds to its own.
    _append(run, "held", live_bytes(run.engine), fresh=run.step == 1)


def log_peak(run: Run) -> list[int]:
    """Return one row per rank: the most bytes so far. Collective.

    Returns:
        What each rank's CUDA device has allocated at most, or each process held in memory, imports
        included.
    """
    peak = peak_bytes(run.engine.device)
    return [row["peak"] for row in _append(run, "peak", {"peak": peak})]


def _append(run: Run, moment: str, sizes: dict[str, int], fresh: bool = False) -> list[Any]:
    rows: list[Any] = [None] * dist.get_world_size()
    mine = {"step": run.step, "rank": dist.get_rank(), "moment": moment, **sizes}
    dist.all_gather_object(rows, mine)
    if dist.get_rank() == 0:
        path: Path = run.settings.output / FILE
        with path.open("w" if fresh else "a") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    return rows
