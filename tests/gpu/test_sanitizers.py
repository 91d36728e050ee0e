"""No illegal access, and no use of a tensor by two streams that do not wait for one another."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.gpu.small_step import main

STEP = [sys.executable, "-m", "tests.gpu.small_step"]
TOOL = shutil.which("compute-sanitizer")


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    own = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=own, cwd=ROOT, capture_output=True, text=True, timeout=500)


@pytest.mark.gpu
def test_streams() -> None:
    """Torch's own sanitizer follows every kernel's tensors over the streams."""
    done = run(STEP, TORCH_CUDA_SANITIZER="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "CSAN detected" not in done.stderr, done.stderr[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(TOOL is None, reason="compute-sanitizer is not installed")
def test_memory() -> None:
    """Without torch's caching allocator, whose blocks would hide what lies beyond a tensor."""
    tool = [str(TOOL), "--tool", "memcheck", "--error-exitcode", "9"]
    done = run([*tool, *STEP], PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_rehearsal_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    main(torch.device("cpu"))
    assert capsys.readouterr().out.startswith("stepped")
