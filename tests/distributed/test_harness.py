"""A test that goes wrong says on which rank and where, and those after it run."""

from pathlib import Path

import pytest

from tests.distributed import harness_bodies as bodies
from tests.distributed import launch
from tests.distributed.harness import Job
from tests.distributed.launch import Ranks
from tests.distributed.schedule import Schedule


def test_the_ranks_go_on_or_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go on where all failed alike; they are stopped where one is missing."""
    monkeypatch.setattr(launch, "GRACE_SECONDS", 3)
    ranks = Ranks(2, tmp_path)
    passed = ranks.run(Job(bodies.passes, 2))
    assert passed == launch.Verdict("", {"size": 2, "rank": 1})
    failure = ranks.run(Job(bodies.fails_everywhere, 2)).failure
    assert failure.startswith("rank ") and 'raise ValueError(f"rank {dist' in failure
    assert "ValueError: rank 0 cannot" in failure and "ValueError: rank 1 cannot" in failure
    assert ranks.is_running and not ranks.run(Job(bodies.passes, 2)).failure
    failure = ranks.run(Job(bodies.fails_on_rank_1, 2)).failure
    assert failure.startswith("rank 1 of 2: Traceback") and "ValueError: rank 1 alone" in failure
    assert "rank 0 of 2: not at the end after 3 s" in failure and "in barrier" in failure
    assert not ranks.is_running


def test_those_after_a_lost_process_run() -> None:
    """In new processes."""
    jobs = [Job(bodies.is_killed_on_rank_1, 2), Job(bodies.passes, 2)]
    schedule = Schedule(jobs)
    try:
        failure = schedule.verdict(jobs[0]).failure
        assert failure.startswith("rank 1 of 2: the process ended with exit code -9")
        assert not schedule.verdict(jobs[1]).failure
    finally:
        schedule.close()


def test_a_hanging_test_ends(tmp_path: Path) -> None:
    """And both ranks say where they were."""
    failure = Ranks(2, tmp_path, job_seconds=2).run(Job(bodies.hangs, 2)).failure
    assert failure.count("not at the end after 2 s") == 2
    assert failure.count("in hangs") == 2
