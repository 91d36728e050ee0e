"""Ranks in fresh processes on this machine, which neither outlive their launch nor its memory."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gradopt_ds.experiments.common.launcher_watch import STARTER
from gradopt_ds.experiments.common.shared_memory import free_shared_memory

TAIL = 40
"""Lines of a log that an error shows."""


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
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, log.open("w") as errors:
        inputs, results = Path(folder) / "settings.json", Path(folder) / "results.json"
        inputs.write_text(settings.model_dump_json())
        command = torchrun(ranks, port, module, str(inputs), str(results))
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
        with launched(command, port, ranks, **options) as process:
            assert process.stdout is not None
            for line in process.stdout:
                watch(line.rstrip())
            status = process.wait()
        if status:
            raise RanksError(tail(log, TAIL))
        return json.loads(results.read_text())


def torchrun(ranks: int, port: int, module: str, *arguments: str) -> list[str]:
    """Write the command line that runs a module on local ranks, whose master port is ``port``."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    address = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    return [*launcher, *address, "-m", module, *arguments]


@contextmanager
def launched(
    command: Sequence[str], port: int, processes: int, **options: Any
) -> "Iterator[subprocess.Popen[Any]]":
    """Run a launcher of ranks inside the block; end it, and free what it leaves, afterwards.

    Args:
        command: of the launcher.
        port: the ranks' ``MASTER_PORT``.
        processes: ranks that share the machine's cores.
        options: further arguments of :class:`subprocess.Popen`.
    """
    # The ranks end also if this process is killed and cannot end them.
    own = {**environment(processes), STARTER: str(os.getpid())}
    process = subprocess.Popen(command, env=own, start_new_session=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        free_shared_memory(port)


def environment(processes: int) -> dict[str, str]:
    """Give each of several processes its share of the cores, unless the user has said how many."""
    # More threads than cores let OpenMP spin against itself: measured ten times slower.
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **os.environ}


def free_port() -> int:
    """Find a TCP port that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def tail(log: Path, lines: int) -> str:
    """Read the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
