"""Processes of so many ranks, and what became of a job on them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.common.shared_memory import free_shared_memory
from tests.distributed.harness import CPU, FOLDER_VARIABLE, Job, Outcome, Place

ROOT = Path(__file__).parent.parent.parent

START_SECONDS = 900
JOB_SECONDS = 600
"""For one job; the slowest takes 20 s on an idle machine."""
GRACE_SECONDS = 30
"""For the other ranks, once one has failed: they may wait for it in a collective for ever."""


class StartError(Exception):
    """The processes did not come up."""


@dataclass(frozen=True)
class Verdict:
    """What all ranks together made of a job; it has passed if ``failure`` is empty."""

    failure: str = ""
    values: dict[str, float] = field(default_factory=dict)


class Ranks:
    """Live processes, one a rank. A job at a time runs on all of them.

    Args:
        count: of ranks.
        folder: which all jobs share.
        job_seconds: after which a job counts as hanging.
        place: what they run on.

    Raises:
        StartError: with the end of the logs.
    """

    def __init__(
        self, count: int, folder: Path, job_seconds: float = JOB_SECONDS, place: Place = CPU
    ) -> None:
        self.count = count
        self.place = place
        self.is_running = True
        self._job_seconds = job_seconds
        self._logs = tempfile.TemporaryDirectory()
        self._port = free_port()
        environment = {
            **os.environ,
            FOLDER_VARIABLE: str(folder),
            "WORLD_SIZE": str(count),
            "LOCAL_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._port),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []
        for rank in range(count):
            self._start(rank, {**environment, **place.environment(rank)})
        outcomes = self._answers(START_SECONDS)
        if failure := failure_of(outcomes):
            self.stop()
            raise StartError(f"{count} ranks did not start\n{failure}")

    def _start(self, rank: int, environment: dict[str, str]) -> None:
        ours, theirs = Pipe()
        with self._log(rank).open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.worker", str(theirs.fileno())],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()  # so that the pipe ends with the process
        self._processes.append(process)
        self._pipes.append(ours)

    def run(self, job: Job) -> Verdict:
        """Run a job on every rank; stop the processes if they are not in step afterwards."""
        for pipe in self._pipes:
            with contextlib.suppress(BrokenPipeError):  # a process that has ended since
                pipe.send(job)
        outcomes = self._answers(self._job_seconds, job.dying)
        failed = [bool(outcome.failure) for outcome in outcomes.values()]
        if len(set(failed)) > 1 or not all(outcome.is_alive for outcome in outcomes.values()):
            self.stop()
        return Verdict(
            failure_of(outcomes), largest(outcome.values for outcome in outcomes.values())
        )

    def stop(self) -> None:
        """End the processes, whatever they are doing, and remove what they leave behind."""
        self.is_running = False
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.wait()
            pipe.close()
        self._logs.cleanup()
        free_shared_memory(self._port)

    def _answers(self, seconds: float, dying: int | None = None) -> dict[int, Outcome]:
        """What each rank sent, in the order in which it came."""
        waiting: dict[Any, int] = {pipe: rank for rank, pipe in enumerate(self._pipes)}
        outcomes: dict[int, Outcome] = {}
        began, limit = time.monotonic(), time.monotonic() + seconds
        while waiting:
            ready = wait(list(waiting), timeout=max(0.0, limit - time.monotonic()))
            for pipe in ready:
                rank = waiting.pop(pipe)
                answer = self._answer(rank)
                outcomes[rank] = _as_announced(answer) if rank == dying else answer
                if outcomes[rank].failure:
                    limit = min(limit, time.monotonic() + GRACE_SECONDS)
            if not ready:
                return outcomes | self._abort([*waiting.values()], time.monotonic() - began)
        return outcomes

    def _answer(self, rank: int) -> Outcome:
        try:
            outcome: Outcome = self._pipes[rank].recv()
        except (EOFError, ConnectionResetError):
            code = self._processes[rank].wait()
            failure = f"the process ended with exit code {code}; its last output:\n"
            return Outcome(failure + self._output(rank), is_alive=False)
        return outcome

    def _abort(self, hanging: Sequence[int], lasted: float) -> dict[int, Outcome]:
        """Stop ranks; their last output says where they were, see ``worker.py``."""
        for rank in hanging:  # all at once: one that lost its peer would go on
            self._processes[rank].send_signal(signal.SIGUSR1)
        outcomes = {}
        for rank in hanging:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[rank].wait(timeout=10)
            failure = f"not at the end after {lasted:.0f} s, and stopped; its last output:\n"
            outcomes[rank] = Outcome(failure + self._output(rank), is_alive=False)
        return outcomes

    def _log(self, rank: int) -> Path:
        return Path(self._logs.name, f"rank{rank}.log")

    def _output(self, rank: int) -> str:
        return self._log(rank).read_text(errors="replace")[-3000:].strip()


def _as_announced(outcome: Outcome) -> Outcome:
    """Make a success of the end of a process that was to end, and a failure of anything else."""
    if outcome.is_alive:
        return Outcome("the process was to end in the body, and did not\n" + outcome.failure)
    return Outcome(is_alive=False)


def failure_of(outcomes: Mapping[int, Outcome]) -> str:
    """All of the first failure, and of every process that was lost; the rest in one line each."""
    failures = {rank: outcome for rank, outcome in outcomes.items() if outcome.failure}
    texts: list[str] = []
    for rank, outcome in failures.items():
        text = outcome.failure.strip()
        if texts and outcome.is_alive:
            text = f"(followed) {text.splitlines()[-1]}"
        texts.append(f"rank {rank} of {len(outcomes)}: {text}")
    return "\n\n".join(texts)


def largest(records: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The largest value under each name."""
    values: dict[str, float] = {}
    for name, value in chain.from_iterable(record.items() for record in records):
        values[name] = max(values.get(name, value), value)
    return values


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
