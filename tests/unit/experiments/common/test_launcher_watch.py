"""A process whose launcher is killed ends; one that a shell left behind goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradopt_ds.experiments.common.launcher_watch import STARTER, is_launcher, parent_of

RANK = """
import os, sys, time
from gradopt_ds.experiments.common.launcher_watch import end_with_launcher
end_with_launcher()
print(os.getpid(), flush=True)
time.sleep(100)
"""
START = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("name", "ends", "before"),
    [
        ("launch.py", True, ""),
        ("script.py", False, ""),
        ("script.py", True, f"import os; os.environ['{STARTER}'] = str(os.getpid()); "),
    ],
)
def test_only_a_launchers_or_starters_end_is_the_ranks(
    tmp_path: Path, name: str, ends: bool, before: str
) -> None:
    (tmp_path / name).write_text(before + START)
    command = [sys.executable, str(tmp_path / name), RANK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        rank = int(launcher.stdout.readline())
        assert parent_of(rank) == launcher.pid
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        until = time.monotonic() + (20 if ends else 2.5)
        while running(rank) and time.monotonic() < until:
            time.sleep(0.1)
        assert running(rank) is not ends
        if not ends:
            os.kill(rank, signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "is_one"),
    [
        (["python", "/usr/bin/deepspeed", "--num_gpus", "2"], True),
        (["python", "-u", "-m", "deepspeed.launcher.launch", "--world_info=x"], True),
        (["python", "-m", "torch.distributed.run", "--nproc-per-node", "2"], True),
        (["bash", "/home/me/run_deepspeed.sh"], False),
        (["bash", "-c", "deepspeed --num_gpus 2 scripts/pretrain.py"], False),
        ([], False),
    ],
)
def test_launchers_are_known_by_their_command_line(command: list[str], is_one: bool) -> None:
    assert is_launcher(command) is is_one
