"""A module on fresh local ranks, through torchrun: settings go in as JSON, results come out."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel


class RanksError(RuntimeError):
    """The ranks did not finish; the message ends with what they said last."""


def run_ranks(
    module: str, ranks: int, settings: BaseModel, log: Path, watch: Callable[[str], None]
) -> Any:
    """Run ``python -m module SETTINGS RESULTS`` on every rank; return what is in RESULTS.

    Args:
        module: what to run; its rank 0 writes the results as JSON.
        ranks: local processes, and devices where there are any.
        settings: written to the file SETTINGS.
        log: where the ranks' errors go.
        watch: called with each line that the ranks print.

    Raises:
        RanksError: a rank failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        told, found = Path(folder) / "settings.json", Path(folder) / "found.json"
        told.write_text(settings.model_dump_json())
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        worker = ["--nproc-per-node", str(ranks), "-m", module, str(told), str(found)]
        with log.open("w") as errors:
            process = subprocess.Popen(
                [*launcher, *worker],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=_environment(ranks),
            )
            assert process.stdout is not None
            with process:
                for line in process.stdout:
                    watch(line.rstrip())
        if process.returncode:
            raise RanksError("\n".join(log.read_text(errors="replace").splitlines()[-40:]))
        return json.loads(found.read_text())


def _environment(ranks: int) -> dict[str, str]:
    # More threads than cores let OpenMP spin against itself: measured ten times slower.
    threads = max(1, (os.cpu_count() or 1) // ranks)
    return {"OMP_NUM_THREADS": str(threads), **os.environ}
