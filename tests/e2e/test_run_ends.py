"""How runs on two ranks end that cannot or must not go on, and go on that may."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from gradopt_ds.experiments.pretrain.metrics import read
from tests.conftest import ROOT
from tests.e2e.runs import DEEPSPEED, STEPS, finish, settings, start

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")
ENDLESS = ("--steps", "1000000", "--warmup-steps", "1")
BATCH, LENGTH = 16, 32


@pytest.fixture(scope="module")
def saved(shared: Path) -> Path:
    """A finished run with checkpoints."""
    output = shared / "saved"
    finish(start(shared, output))
    return output


def wait_for_a_row(process: "subprocess.Popen[str]", output: Path) -> list[psutil.Process]:
    """The processes of a run that has begun to train, the launcher's own left out."""
    while not read(output / "metrics.jsonl"):
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)
    return psutil.Process(process.pid).children(recursive=True)


def assert_ended(processes: Sequence[psutil.Process]) -> None:
    assert len(processes) >= 2
    _, alive = psutil.wait_procs(processes, timeout=30)
    for process in alive:
        process.kill()
    assert alive == []


def test_accepted_changes_are_told_and_what_was_trained(shared: Path, saved: Path) -> None:
    output = shared / "changed"
    shutil.copytree(saved, output)
    more = (
        *("--accept-changes", "--steps", str(STEPS + 2), "--train-batch", str(2 * BATCH)),
        *("--override", "optimizer.params.lr=0.5"),
    )
    printed = finish(start(shared, output, more=more))
    lr = json.loads((DEEPSPEED / "zero2_swan.json").read_text())["optimizer"]["params"]["lr"]
    assert f"the JSON says 0.5, and the checkpoint's {lr} stays" in printed
    summary = json.loads((output / "summary.json").read_text())
    assert summary["optimizer_params"]["lr"] == lr
    (change,) = summary["changes"]
    assert change["after_step"] == STEPS
    assert f"--steps was {STEPS} and is {STEPS + 2}" in change["changed"]
    assert summary["fingerprint"] is None
    tokens = [row["tokens"] for row in read(output / "metrics.jsonl")[STEPS - 1 :]]
    before = STEPS * BATCH * LENGTH
    assert tokens == [before, before + 2 * BATCH * LENGTH, before + 4 * BATCH * LENGTH]
    assert summary["tokens"] == tokens[-1]


def test_one_rank_fails_and_its_message_comes_last_and_once(shared: Path, saved: Path) -> None:
    """Rank 0 is meanwhile in a collective, whose end is not worth a word."""
    output = shared / "broken"
    shutil.copytree(saved, output)
    half = output / f"checkpoints/step{STEPS}/pretrain_rank1.pt"
    half.write_bytes(half.read_bytes()[:500])
    process = start(shared, output)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 2
    assert "Traceback" not in printed
    # The launcher has the last word: the command that failed.
    *_, last, launcher = printed.strip().splitlines()
    assert last.startswith(f"error on rank 1: {half} is broken")
    assert "exits with return code = 2" in launcher
    assert printed.count("\nerror") == 1


def test_a_second_run_is_kept_out_and_ranks_end_with_their_launcher(shared: Path) -> None:
    output = shared / "orphans"
    process = start(shared, output, more=ENDLESS)
    ranks = wait_for_a_row(process, output)
    second = [
        *(sys.executable, str(ROOT / "scripts/pretrain.py"), "--output", str(output)),
        *("--deepspeed_config", str(DEEPSPEED / "zero2_swan.json"), *settings(shared)),
    ]
    done = subprocess.run(second, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "is in use by process" in done.stderr.strip().splitlines()[-1]
    assert all(rank.is_running() for rank in ranks)
    process.send_signal(signal.SIGKILL)  # to DeepSpeed's runner alone
    assert_ended(ranks)
    process.communicate()
    last = read(output / "metrics.jsonl")[-1]["step"]
    assert (output / "checkpoints/latest").read_text() == f"step{last}"


def test_sigterm_ends_a_comparison_and_its_runs(shared: Path) -> None:
    output = shared / "compared"
    command = [
        *(sys.executable, str(ROOT / "scripts/compare.py"), str(DEEPSPEED / "zero2_swan.json")),
        *("--ranks", "1", "--output", str(output), *settings(shared), *ENDLESS),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = wait_for_a_row(process, output / "swan_seed0")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    assert_ended(runs)
