"""scripts/gpu_report.sh: parts are run once, and what fails is said."""

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT

SCRIPT = ROOT / "scripts/gpu_report.sh"


def report(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHON": "python"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def listed(sizes: str) -> list[str]:
    return report("--sizes", sizes, "--list").stdout.split()


def test_a_part_is_run_once_and_packed(tmp_path: Path) -> None:
    output, archive = tmp_path / "out", tmp_path / "report.tar.gz"
    arguments = ("--sizes", "tiny", "--output", output, "--archive", archive, "check")
    first = report(*arguments)
    assert first.returncode == 0 and first.stdout.startswith("check: done in"), first.stderr
    assert json.loads((output / "check/machine.json").read_text())["peak_flops_per_second"] > 1e9
    with tarfile.open(archive) as packed:
        assert any(name.endswith("check/machine.json") for name in packed.getnames())
    assert report(*arguments).stdout == "check: done before\n"


def test_a_part_that_fails_is_no_success(tmp_path: Path) -> None:
    """There is nothing to sum up; it can be run again."""
    for _ in range(2):
        done = report("--sizes", "tiny", "--output", tmp_path, "summary")
        assert done.returncode == 1
        assert "summary: FAILED with exit status 2" in done.stdout
        assert f"error: no part of a report lies in {tmp_path}" in done.stdout
    assert (tmp_path / "summary/failed").is_file() and not (tmp_path / "summary/done").exists()


def test_what_there_is_no_time_for_is_left(tmp_path: Path) -> None:
    done = report("--sizes", "tiny", "--output", tmp_path, "--seconds", "30", "check", "summary")
    assert done.returncode == 1
    assert done.stdout == "check: left, no time\nsummary: left, no time\n"


@pytest.mark.parametrize("arguments", [("--sizes", "huge"), ("--quick",), ("nonsense",)])
def test_what_is_unknown_is_refused(arguments: tuple[str, ...]) -> None:
    done = report(*arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert arguments[-1] in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure for half an hour")
def test_full_sizes_are_refused_without_a_gpu(tmp_path: Path) -> None:
    done = report("--output", tmp_path, "check")
    assert done.returncode == 2 and "torch sees no GPU" in done.stderr


def test_every_kind_of_part_is_rehearsed() -> None:
    """But DeepSpeed's FusedAdam, which compiles a kernel."""
    kinds = {sizes: {part.split(":")[0] for part in listed(sizes)} for sizes in ("full", "tiny")}
    assert kinds["full"] - kinds["tiny"] == {"fused"}
    assert len(listed("full")) == len(set(listed("full"))) > 30
