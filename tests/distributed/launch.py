"""Run a worker module once on N gloo ranks and collect what rank 0 wrote."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.common.shared_memory import free_shared_memory

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_SECONDS = 400


def launch(module: str, world_size: int, *arguments: str) -> dict[str, Any]:
    """Run ``python -m module OUT *arguments`` on every rank; return the JSON in OUT.

    Importing DeepSpeed and starting processes takes longer than any case, so one launch runs all
    the cases of its kind, and the tests read their results from here.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        port = free_port()
        environment = {
            **os.environ,
            "WORLD_SIZE": str(world_size),
            "LOCAL_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        processes = []
        for rank in range(world_size):
            log = (Path(folder) / f"rank{rank}.log").open("w")
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, str(out), *arguments],
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    cwd=ROOT,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        codes: list[int | None] = [None] * world_size
        try:
            codes = [process.wait(timeout=TIMEOUT_SECONDS) for process in processes]
        except subprocess.TimeoutExpired:
            codes = [process.poll() for process in processes]
        finally:
            for process in processes:
                process.kill()
            free_shared_memory(port)
        if any(code != 0 for code in codes):
            logs = "\n".join(
                f"--- rank {rank}, exit {code}\n"
                + (Path(folder) / f"rank{rank}.log").read_text()[-6000:]
                for rank, code in enumerate(codes)
            )
            raise RuntimeError(
                f"{module} on {world_size} ranks failed, or took longer than {TIMEOUT_SECONDS} s"
                f"\n{logs}"
            )
        results: dict[str, Any] = json.loads(out.read_text())
        return results


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
