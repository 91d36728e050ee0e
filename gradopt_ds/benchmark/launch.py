"""The benchmark on fresh local ranks, through torchrun."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradopt_ds.benchmark.settings import BenchSettings

LOG = "log.txt"


class BenchError(RuntimeError):
    """The ranks did not finish; the message ends with what they said last."""


def launch(settings: BenchSettings, watch: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run the benchmark; the ranks' output goes to ``log.txt`` beside the results.

    Args:
        settings: of the benchmark.
        watch: called with each line that tells how far it is.

    Raises:
        BenchError: a rank failed.
    """
    settings.output.mkdir(parents=True, exist_ok=True)
    log = settings.output / LOG
    with tempfile.TemporaryDirectory() as folder:
        told, found = Path(folder) / "settings.json", Path(folder) / "found.json"
        told.write_text(settings.model_dump_json())
        process = subprocess.Popen(
            _command(settings.ranks, told, found),
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=_environment(settings.ranks),
        )
        assert process.stdout is not None
        with process:
            for line in process.stdout:
                watch(line.rstrip())
        if process.returncode:
            raise BenchError("\n".join(log.read_text(errors="replace").splitlines()[-40:]))
        results: list[dict[str, Any]] = json.loads(found.read_text())
        return results


def _command(ranks: int, told: Path, found: Path) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = ["--nproc-per-node", str(ranks), "-m", "gradopt_ds.benchmark.worker"]
    return [*launcher, *worker, str(told), str(found)]


def _environment(ranks: int) -> dict[str, str]:
    # More threads than cores let OpenMP spin against itself: measured ten times slower.
    threads = max(1, (os.cpu_count() or 1) // ranks)
    return {"OMP_NUM_THREADS": str(threads), **os.environ}
