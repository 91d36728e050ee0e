"""What docs/tutorial.md shows is what its own blocks print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SCRIPT, IMPORT = (text for kind, text in BLOCKS if kind == "python")
ADAMW, SWAN = (text for kind, text in BLOCKS if kind == "json")
OF_ADAMW, TABLE, OF_SWAN, AT_STAGE_3, MISSPELT, UNKNOWN = (
    t for kind, t in BLOCKS if kind == "text"
)
LOSS = re.compile(r"step (\d+): loss ([\d.]+)")


def run(folder: Path, script: str, config: str) -> tuple[int, str]:
    """Exit status and output of the tutorial's command on two ranks."""
    (folder / "LICENSE").write_bytes((ROOT / "LICENSE").read_bytes())
    (folder / "train.py").write_text(script)
    (folder / "config.json").write_text(config)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    finished = subprocess.run(
        [*launcher, "--nproc_per_node", "2", "train.py", "config.json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return finished.returncode, finished.stdout


def losses(output: str) -> dict[int, float]:
    return {int(step): float(loss) for step, loss in LOSS.findall(output)}


def lines_of_state(output: str) -> list[str]:
    return sorted(re.findall(r"rank \d: [\d,]+ bytes of optimizer state", output))


@pytest.mark.parametrize(
    ("script", "config", "shown"),
    [
        (SCRIPT, ADAMW, OF_ADAMW),
        (IMPORT + SCRIPT, SWAN, TABLE + OF_SWAN),
        (IMPORT + SCRIPT, SWAN.replace('"stage": 2', '"stage": 3'), AT_STAGE_3 + OF_SWAN),
    ],
    ids=["adamw", "swan", "swan_stage3"],
)
def test_a_run_prints_what_the_page_shows(
    tmp_path: Path, script: str, config: str, shown: str
) -> None:
    # Not the exit status: at stage 3 gloo may abort a rank that has printed everything.
    _, output = run(tmp_path, script, config)
    # CPUs with native bfloat16 multiply in it, so SWAN's steps differ a little between machines.
    assert losses(output) == pytest.approx(losses(shown), rel=0.1), output[-3000:]
    assert lines_of_state(output) == lines_of_state(shown)
    logged = {line.rstrip() for line in output.splitlines()}
    for line in shown.splitlines():
        if line and not LOSS.match(line) and not line.startswith("rank "):
            assert line in logged


@pytest.mark.parametrize(
    ("script", "config", "error"),
    [
        (IMPORT + SCRIPT, SWAN.replace('"alpha"', '"alhpa"'), MISSPELT),
        (SCRIPT, SWAN, UNKNOWN),
    ],
    ids=["misspelt", "not imported"],
)
def test_a_mistake_ends_in_the_error_that_the_page_shows(
    tmp_path: Path, script: str, config: str, error: str
) -> None:
    status, output = run(tmp_path, script, config)
    assert status != 0
    assert error.strip() in output
