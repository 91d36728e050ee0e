"""Real launches on two ranks: training, kill and resume, comparing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet as pq
import pytest

from gradopt_ds.experiments.pretrain.metrics import read
from tests.conftest import ROOT
from tests.e2e.runs import DEEPSPEED, STEPS, finish, settings, start, trace

STOP_AT, KILL_AT = 7, 13
pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills a process group")


def start_swan(
    shared: Path,
    output: Path,
    stage: int = 2,
    oracle: str = "polar_express",
    dtype: str = "float32",
    more: Sequence[str] = (),
) -> "subprocess.Popen[str]":
    """Launch SWAN with an oracle whose compute dtype does not depend on the machine."""
    spec = json.dumps({"type": oracle, "dtype": dtype})
    override = ("--override", f"optimizer.params.oracle={spec}")
    return start(shared, output, f"zero{stage}_swan", (*override, *more))


@pytest.fixture(scope="module")
def unbroken(shared: Path) -> Path:
    """A finished run."""
    output = shared / "unbroken"
    monitor = {"enabled": True, "output_path": str(output / "monitors"), "job_name": "csv"}
    finish(start_swan(shared, output, more=("--override", f"csv_monitor={json.dumps(monitor)}")))
    return output


def test_the_loss_falls_and_everything_is_written(unbroken: Path) -> None:
    rows = read(unbroken / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary["final_validation_loss"] == rows[-1]["validation_loss"] < rows[0]["loss"] - 0.5
    assert summary["zero_stage"] == 2
    assert summary["ranks"] == len(summary["optimizer_state_bytes_per_rank"]) == 2
    # SWAN keeps no state for the matrices inside the blocks, so less than Adam's half per rank.
    assert 0 < max(summary["optimizer_state_bytes_per_rank"]) < 8 * summary["parameters"] / 2
    assert (unbroken / "metrics.csv").read_text().count("\n") == STEPS + 1
    assert list((unbroken / "tensorboard").glob("events*"))
    for row in rows:
        assert 0 < row["data_wait_seconds"] + row["optimizer_seconds"] < row["step_seconds"]
        assert row["tokens_per_second"] == pytest.approx(16 * 32 / row["step_seconds"])
        assert 0 < row["memory_bytes"] <= row["peak_memory_bytes"]
    monitored = unbroken / "monitors/csv/pretrain_lr_aux_1.csv"
    assert monitored.read_text().count("\n") == STEPS + 1
    checkpoints = {folder.name for folder in (unbroken / "checkpoints").glob("step*")}
    assert checkpoints == {"step20", "step24"}


def test_every_rank_tells_its_memory(unbroken: Path) -> None:
    rows = [json.loads(line) for line in (unbroken / "memory.jsonl").read_text().splitlines()]
    assert [(row["moment"], row["step"], row["rank"]) for row in rows] == [
        ("held", 1, 0), ("held", 1, 1), ("peak", STEPS, 0), ("peak", STEPS, 1)
    ]  # fmt: skip
    summary = json.loads((unbroken / "summary.json").read_text())
    assert [row["state"] for row in rows[:2]] == summary["optimizer_state_bytes_per_rank"]
    assert [row["peak"] for row in rows[2:]] == summary["peak_bytes_per_rank"]
    for held, peak in zip(rows[:2], rows[2:], strict=True):
        assert held["masters"] >= 4 * summary["parameters"] / 2
        assert peak["peak"] > held["weights"] + held["masters"] + held["state"]


def signal_at(process: "subprocess.Popen[str]", output: Path, step: int, number: int) -> str:
    """What a run prints whose whole process group gets a signal after a step."""
    while process.poll() is None and len(read(output / "metrics.jsonl")) < step:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    printed, _ = process.communicate(timeout=100)
    return printed


def test_stopped_killed_and_resumed_is_like_never_stopped(shared: Path, unbroken: Path) -> None:
    output = shared / "killed"
    process = start_swan(shared, output)
    printed = signal_at(process, output, STOP_AT, signal.SIGUSR1)
    assert process.returncode == 75, printed
    stopped_at = read(output / "metrics.jsonl")[-1]["step"]
    assert f"stopped by SIGUSR1 after step {stopped_at}/{STEPS}, which is saved" in printed
    assert (output / "checkpoints/latest").read_text() == f"step{stopped_at}"
    assert not (output / "summary.json").exists()
    process = start_swan(shared, output)
    signal_at(process, output, KILL_AT, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    # As if killed while saving: a newer folder stands there half written.
    half = output / f"checkpoints/step{KILL_AT + 1}"
    half.mkdir()
    (half / "pretrain_rank0.pt").write_text("half a fi")
    # A layer that is computed twice gives the same bits.
    printed = finish(start_swan(shared, output, more=("--checkpointing", "transformers")))
    assert "resumed after step" in printed
    assert "--checkpointing was 'none' and is 'transformers'" in printed
    assert trace(output) == trace(unbroken)
    assert not half.exists()


def apart(first: Path, other: Path, column: str) -> float:
    """The largest relative difference of two runs in any step."""
    rows = [read(run / "metrics.jsonl") for run in (first, other)]
    assert [[row["step"], row["tokens"], row["lr"]] for row in rows[0]] == [
        [row["step"], row["tokens"], row["lr"]] for row in rows[1]
    ]
    values = [[row[column] for row in run if column in row] for run in rows]
    assert values[1]
    return max(abs(a - b) / b for a, b in zip(*values, strict=True))


def test_stage_3_trains_like_stage_2_to_rounding(shared: Path) -> None:
    """With the exact oracle; also where one rank has a validation batch more than the other, and
    where stage 3 recomputes its layers and computes attention otherwise.

    The stages sum a gradient in another order. An inexact oracle magnifies that rounding by up to a
    thousand where a singular value is next to nothing, in whatever dtype it computes, and a square
    matrix with centred rows has such a value; the exact oracle leaves it out.
    """
    runs = {stage: shared / f"exact{stage}" for stage in (2, 3)}
    for stage, output in runs.items():
        otherwise = ("--checkpointing", "deepspeed", "--attention", "eager") if stage == 3 else ()
        finish(start_swan(shared, output, stage, "svd", "float64", otherwise))
    for column in ("loss", "grad_norm", "validation_loss"):
        assert apart(runs[3], runs[2], column) < 1e-5
    summary, before = (json.loads((runs[stage] / "summary.json").read_text()) for stage in (3, 2))
    assert (summary["zero_stage"], before["zero_stage"]) == (3, 2)
    assert summary["parameters"] == before["parameters"]


def test_stage_3_trains_like_stage_2_in_bfloat16(shared: Path, unbroken: Path) -> None:
    """To the rounding of bfloat16: as far from each other as each is from the run in float32.

    Roundings that differ add up like any other noise, so a factor of 4 is ample.
    """
    runs = {stage: shared / f"bfloat16_{stage}" for stage in (2, 3)}
    for stage, output in runs.items():
        finish(start_swan(shared, output, stage, dtype="bfloat16"))
    for column in ("loss", "grad_norm"):
        rounding = apart(runs[2], unbroken, column)
        assert 1e-5 < rounding < 0.05
        assert apart(runs[3], runs[2], column) < 4 * rounding


def test_one_process_needs_no_launcher(shared: Path) -> None:
    """Streaming parquet, whose reader is still open when the run ends."""
    texts = [f"{row}: to be, or not to be, that is the question" for row in range(4000)]
    table = pyarrow.table({"text": texts})
    pq.write_table(table, shared / "train-00000.parquet", row_group_size=10)
    command = [
        *(sys.executable, str(ROOT / "scripts/pretrain.py")),
        *("--deepspeed_config", str(DEEPSPEED / "zero2_swan.json")),
        *("--data", str(shared / "train-00000.parquet"), "--output", str(shared / "alone")),
        *(*settings(shared), "--steps", "2"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rank(s)" in done.stdout
    assert [row["step"] for row in read(shared / "alone/metrics.jsonl")] == [1, 2]


def test_compare_writes_table_and_picture(shared: Path) -> None:
    output = shared / "compare"
    command = [
        *(sys.executable, str(ROOT / "scripts/compare.py")),
        *(str(DEEPSPEED / f"zero2_{name}.json") for name in ("adamw", "polargrad")),
        *("--output", str(output), *settings(shared)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    groups = json.loads((output / "comparison.json").read_text())["groups"]
    assert [group["optimizer"] for group in groups] == ["adamw", "polargrad"]
    first = [read(output / f"{name}_seed0/metrics.jsonl")[0] for name in ("adamw", "polargrad")]
    assert first[0]["loss"] == first[1]["loss"]  # same weights, same data
    assert groups[0]["state_bytes_per_rank"] > groups[1]["state_bytes_per_rank"] > 0
    assert (output / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| adamw |" in (output / "comparison.md").read_text()
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0
    assert again.stdout.count("reused") >= 2


def test_a_failed_run_fails_the_command_and_shows_why(shared: Path) -> None:
    output = shared / "failing"
    command = [
        *(sys.executable, str(ROOT / "scripts/compare.py")),
        *(str(DEEPSPEED / "zero2_adamw.json"), "--ranks", "1", "--output", str(output)),
        *(*settings(shared), "--sequence-length", "65"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "--sequence-length 65 exceeds max_position_embeddings" in done.stdout
