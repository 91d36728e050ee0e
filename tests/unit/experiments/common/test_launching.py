"""Local ranks hand back their results, or say why not, and leave nothing running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from gradopt_ds.experiments.common import launching, shared_memory

WORKER = """
import json, os, sys
settings = json.load(open(sys.argv[1]))
rank = int(os.environ["RANK"])
if settings["fails"]:
    sys.exit("rank says why")
os.write(1, f"rank {rank}\\n".encode())  # in one piece: both ranks write into one pipe
if rank == 0:
    facts = [settings["number"], os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"]]
    json.dump(facts, open(sys.argv[2], "w"))
"""
LAUNCHER = """
import subprocess
rank = subprocess.Popen(["sleep", "60"])
print(rank.pid, flush=True)
rank.wait()
"""


class Settings(BaseModel):
    number: int = 7
    fails: bool = False


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "worker_of_this_test.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return "worker_of_this_test"


def test_settings_go_in_and_results_come_out(worker: str, tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "new" / "log.txt"
    results = launching.run_ranks(worker, 2, Settings(), log, lines.append)
    assert results == [7, "2", str(max(1, (os.cpu_count() or 1) // 2))]
    assert sorted(lines) == ["rank 0", "rank 1"]


def test_a_failed_rank_s_last_words_are_the_error(worker: str, tmp_path: Path) -> None:
    with pytest.raises(launching.RanksError, match="rank says why"):
        launching.run_ranks(worker, 1, Settings(fails=True), tmp_path / "log.txt", print)


def test_a_launcher_does_not_outlive_its_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do what it started, and the shared memory of its port."""
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    mine, other = (tmp_path / f"deepspeed_allreduce_buffer_0_h_{port}_0" for port in (41, 42))
    mine.touch()
    other.touch()
    with (
        pytest.raises(KeyboardInterrupt),
        launching.launched(
            [sys.executable, "-c", LAUNCHER], 41, 1, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGTERM
    assert not mine.exists() and other.exists()
    for _ in range(100):
        state = Path(f"/proc/{grandchild}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the launcher's child still runs")


def test_the_user_s_threads_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launching.environment(2)["OMP_NUM_THREADS"] == "3"
