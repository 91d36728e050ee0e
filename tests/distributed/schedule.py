"""All jobs of one run of pytest, in an order in which processes are started once a world size."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.distributed.harness import Job, Place
from tests.distributed.launch import Ranks, StartError, Verdict


class Schedule:
    """Runs jobs when their verdicts are asked for.

    Args:
        jobs: of the selected tests; what they need is added.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        by_name: dict[str, Job] = {}
        for job in jobs:
            needed: Job | None = job
            while needed:
                by_name.setdefault(needed.name, needed)
                needed = needed.needs
        self._waiting = sorted(by_name.values(), key=lambda job: job.order)
        self._verdicts: dict[str, Verdict] = {}
        self._folder = tempfile.TemporaryDirectory()
        self._ranks: Ranks | None = None
        self._cannot_start: dict[tuple[int, Place], str] = {}

    def verdict(self, job: Job) -> Verdict:
        """What became of a job, and first of all that come before it."""
        while job.name not in self._verdicts:
            following = self._waiting.pop(0)
            self._verdicts[following.name] = self._run(following)
        return self._verdicts[job.name]

    def close(self) -> None:
        """End the processes and remove the files."""
        if self._ranks and self._ranks.is_running:
            self._ranks.stop()
        self._folder.cleanup()

    def _run(self, job: Job) -> Verdict:
        if job.needs and self._verdicts[job.needs.name].failure:
            return Verdict(f"{job.needs.name} has failed, and this test needs what it leaves")
        wanted = (job.ranks, job.place)
        if wanted in self._cannot_start:
            return Verdict(self._cannot_start[wanted])
        ranks = self._ranks
        if ranks and ranks.is_running and (ranks.count, ranks.place) != wanted:
            ranks.stop()
        try:
            if not self._ranks or not self._ranks.is_running:
                self._ranks = Ranks(job.ranks, Path(self._folder.name), place=job.place)
        except StartError as error:
            self._cannot_start[wanted] = str(error)
            return Verdict(str(error))
        return self._ranks.run(job)
