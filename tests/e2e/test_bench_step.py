"""The benchmark on two real ranks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

MODEL = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished benchmark has written."""
    directory = tmp_path_factory.mktemp("bench")
    (directory / "model.json").write_text(json.dumps(MODEL))
    command = [
        *(sys.executable, str(ROOT / "scripts/bench_step.py")),
        *("--model", str(directory / "model.json"), "--stage", "3", "--repeats", "1"),
        # DeepSpeed's Muon is left out: it compiles, for longer than everything else takes.
        *("--optimizers", "AdamW,MatrixMuon,SWAN", "--oracle", "newton_schulz", "--steps", "1"),
        *("--output", str(directory / "out")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "oracle=newton_schulz" in done.stdout
    return directory / "out"


def optimizers(output: Path) -> dict[str, dict[str, Any]]:
    record = json.loads((output / "bench_step.json").read_text())
    return {row["optimizer"]: row for row in record["optimizers"]}


def test_table_and_picture_are_written(output: Path) -> None:
    assert (output / "bench_step.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "bench_step.csv").read_text().count("\n") == 4
    assert "| MatrixMuon | oracle=newton_schulz |" in (output / "bench_step.md").read_text()
    assert all(row["measurements"][0]["total"][0] > 0 for row in optimizers(output).values())


def test_the_exchange_sends_what_the_plan_says(output: Path) -> None:
    rows = optimizers(output)
    for name in ("MatrixMuon", "SWAN"):
        for rank in rows[name]["measurements"][0]["counts"]:
            assert rank["sent"]["alltoall_base_"] == rank["planned_sent"] > 0
            assert rank["calls"]["alltoall_base_"] == 2
    assert all(
        "alltoall_base_" not in rank["sent"] for rank in rows["AdamW"]["measurements"][0]["counts"]
    )


def test_every_step_sees_the_same_gradients(output: Path) -> None:
    losses = {
        loss for row in optimizers(output).values() for loss in row["measurements"][0]["losses"]
    }
    assert len(losses) == 1


def test_state_is_that_of_the_rule(output: Path) -> None:
    """Per rank: 4 bytes of momentum for half of the matrices' elements, nothing for SWAN."""
    state = {name: row["state_mb"] * 1e6 for name, row in optimizers(output).items()}
    matrices = 2 * (4 * 48 * 48 + 3 * 48 * 80)
    assert state["MatrixMuon"] - state["SWAN"] == pytest.approx(4 * matrices / 2)
    assert state["AdamW"] > state["MatrixMuon"]
