"""A test that goes wrong says on which rank and where, and those after it run."""

import sys
from pathlib import Path

import pytest

from tests.distributed import harness_bodies as bodies
from tests.distributed import launch
from tests.distributed.harness import Job, distributed, job_id
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
    """In new processes. Where a process was to be lost, it is an error that it was not."""
    jobs = [Job(b, 2) for b in (bodies.is_killed_on_rank_1, bodies.passes, bodies.survives)]
    schedule = Schedule(jobs)
    try:
        failure = schedule.verdict(jobs[0]).failure
        assert failure.startswith("rank 1 of 2: the process ended with exit code -9")
        assert not schedule.verdict(jobs[1]).failure
        failure = schedule.verdict(jobs[2]).failure
        assert failure.startswith("rank 1 of 2: the process was to end in the body, and did not")
    finally:
        schedule.close()


def test_processes_that_do_not_start_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And every test on them says so."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    jobs = [Job(bodies.passes, 2), Job(bodies.hangs, 2)]
    schedule = Schedule(jobs)
    failures = [schedule.verdict(job).failure for job in jobs]
    assert failures[0].startswith("2 ranks did not start") and failures[0] == failures[1]
    assert "exit code 1" in failures[0]
    schedule.close()


def test_names_are_words_and_unique() -> None:
    """What ``pytest -k`` can select."""
    assert (
        job_id(1, "Qwen2MoE stage3 zero.Init lr 0.05") == "1rank-qwen2moe-stage3-zero.init-lr-0.05"
    )
    with pytest.raises(ValueError, match="several cases are called"):
        distributed(2, cases=["stage 3", "stage, 3"])


def test_a_hanging_test_ends(tmp_path: Path) -> None:
    """And both ranks say where they were."""
    failure = Ranks(2, tmp_path, job_seconds=2).run(Job(bodies.hangs, 2)).failure
    assert failure.count("not at the end after 2 s") == 2
    assert failure.count("in hangs") == 2
