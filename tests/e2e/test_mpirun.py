"""A run on two ranks that ``mpirun`` starts: no launcher of DeepSpeed's or torch's is there."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.runs import DEEPSPEED, settings

MPIRUN = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
pytest.importorskip("mpi4py", reason="mpi4py is not installed")
pytestmark = pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")


def mpirun(shared: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    assert MPIRUN
    return subprocess.run(
        [
            *(MPIRUN, "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable),
            *(str(ROOT / "scripts/pretrain.py"), *settings(shared)),
            *("--deepspeed_config", str(DEEPSPEED / "zero2_swan.json"), *more),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_finished_run_ends_with_status_0(shared: Path, tmp_path: Path) -> None:
    """Ranks that leave without MPI_Finalize would make mpirun call a finished run failed."""
    ended = mpirun(shared, "--steps", "2", "--warmup-steps", "1", "--output", str(tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr
    assert "2 rank(s)" in ended.stdout
    assert (tmp_path / "run/summary.json").exists()
