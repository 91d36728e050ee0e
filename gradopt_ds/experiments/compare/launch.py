"""One pre-training run in fresh processes, through DeepSpeed's own launcher."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gradopt_ds.experiments.common import command_line, launching
from gradopt_ds.experiments.common.errors import DivergedError
from gradopt_ds.experiments.common.output_lock import FILE as LOCK
from gradopt_ds.experiments.common.output_lock import lock
from gradopt_ds.experiments.pretrain import metrics, summary
from gradopt_ds.experiments.pretrain.settings import RunSettings

LOG = "log.txt"
_POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: str  # "finished", "reused", "diverged" or "failed"
    seconds: float = 0.0  # of wall clock, launching included
    tail: str = ""  # of the log, where the run did not finish


def finished_before(settings: RunSettings, ranks: int) -> bool:
    """Tell whether the output already holds the result of these settings on these ranks."""
    facts = summary.read(settings.output)
    return facts is not None and facts["fingerprint"] == settings.fingerprint(ranks)


def launch(
    settings: RunSettings,
    ranks: int,
    jobs: int,
    script: Path,
    watch: Callable[[metrics.Row], None],
    stop: threading.Event,
) -> Outcome:
    """Run ``script`` on ``ranks`` local ranks until it ends; its output goes to ``log.txt``.

    Args:
        settings: of the run; its output directory is emptied first.
        ranks: processes (and devices, where there are any).
        jobs: runs that share the machine.
        script: the pre-training script.
        watch: called with the newest row of the trace whenever there is one.
        stop: ends the run when it is set.

    Raises:
        PretrainError: the output cannot be written, or another run is at work there.
    """
    _empty(settings.output)
    started = time.monotonic()
    port = launching.free_port()
    with (settings.output / LOG).open("w") as log:
        line = command(settings, ranks, script, port)
        options = {"stdout": log, "stderr": subprocess.STDOUT}
        with launching.launched(line, port, ranks * jobs, **options) as process:
            _wait(process, settings.output / "metrics.jsonl", watch, stop)
    return _outcome(process.returncode, settings.output, time.monotonic() - started)


def _empty(folder: Path) -> None:
    """Remove everything but the lock, which keeps out whoever comes now."""
    with lock(folder):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()


def command(settings: RunSettings, ranks: int, script: Path, port: int) -> list[str]:
    """Write the ``deepspeed`` command line of a run."""
    beside = Path(sys.executable).with_name("deepspeed")
    launcher = str(beside) if beside.is_file() else shutil.which("deepspeed") or "deepspeed"
    options = ["--log_level", "error", "--num_gpus", str(ranks), "--master_port", str(port)]
    return [launcher, *options, str(script), *command_line.arguments(settings)]


def _wait(
    process: subprocess.Popen[bytes],
    trace: Path,
    watch: Callable[[metrics.Row], None],
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        ended = process.poll() is not None
        rows = metrics.read(trace)
        if rows:
            watch(rows[-1])
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def _outcome(status: int, output: Path, seconds: float) -> Outcome:
    if status == 0 and summary.read(output) is not None:
        return Outcome("finished", seconds)
    tail = launching.tail(output / LOG, 25)
    return Outcome("diverged" if status == DivergedError.exit_status else "failed", seconds, tail)
