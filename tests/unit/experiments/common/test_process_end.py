"""A rank that has written its results leaves with its own status, whatever still lives in it."""

import subprocess
import sys
from pathlib import Path

RANK = """
import atexit, os, sys

class AbortsInTeardown:
    def __del__(self, abort=os.abort):
        abort()

alive = AbortsInTeardown()
atexit.register(lambda: open(sys.argv[1], "w").write("flushed"))
print("results", end="")
{end}
"""
END = "from gradopt_ds.experiments.common.process_end import end_process; end_process(3)"


def run(end: str, file: Path) -> "subprocess.CompletedProcess[str]":
    script = RANK.format(end=end)
    return subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=False
    )


def test_the_status_is_kept_and_exit_handlers_run(tmp_path: Path) -> None:
    ended = run(END, tmp_path / "handler")
    assert (ended.returncode, ended.stdout) == (3, "results"), ended.stderr
    assert (tmp_path / "handler").read_text() == "flushed"


def test_the_same_rank_aborts_where_python_is_torn_down(tmp_path: Path) -> None:
    assert run("sys.exit(3)", tmp_path / "handler").returncode == -6
