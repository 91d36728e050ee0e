"""Held against processes, because that is who a lock keeps apart."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.output_lock import lock

HOLD = """
import sys, time
from pathlib import Path
from gradopt_ds.experiments.common.output_lock import lock
held = lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(PretrainError, match=f"in use by process {holder.pid} on "):
            lock(tmp_path / "out")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock(tmp_path / "out"), pytest.raises(PretrainError, match="in use by process"):
        lock(tmp_path / "out")
    lock(tmp_path / "out").close()


def test_what_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PretrainError, match="cannot be written .*name a folder that can"):
            lock(path)
