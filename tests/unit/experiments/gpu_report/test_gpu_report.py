"""What is read off the files of a report's parts."""

import json
from pathlib import Path
from typing import Any

import pytest

from gradopt_ds.experiments.gpu_report.findings import Finding
from gradopt_ds.experiments.gpu_report.report import find, write

GIB = 2**30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of every command, by hand, with what is read of it."""

    def put(path: str, content: dict[str, Any]) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps(content))

    rows = {"newton_schulz 5": 4.0, "polar_express 5 float16": 3.0, "svd": 1.0,
            "torch.optim.Muon's": 5.0, "DeepSpeed's gram": 2.5}  # fmt: skip
    put("oracles-small/oracles.json", {
        "peak_flops_per_second": 8e14, "peak_dtype": "bfloat16",
        "rows": [{"size": "9x9", "spectrum": "gaussian", "oracle": name, "seconds": seconds}
                 for name, seconds in rows.items()],
    })  # fmt: skip
    put("step-2b-2/bench_step.json", {
        "settings": {"model": "configs/models/2b.json", "stage": 2, "precision": "bf16"},
        "optimizers": [
            {"optimizer": "DeepSpeedMuon", "step_ms": 100.0, "to_deepspeed_muon": 1.0},
            {"optimizer": "MatrixMuon", "step_ms": 60.0, "to_deepspeed_muon": 0.6},
            {"optimizer": "SWAN", "step_ms": 500.0, "to_deepspeed_muon": 5.0},
        ],
    })  # fmt: skip
    put("memory-2b/measure.json", {
        "settings": {"model": "configs/models/2b.json", "stage": 2, "precision": "bf16"},
        "rows": [
            {"optimizer": name, "rank": 0, "category": category, "measured": measured * GIB,
             "difference_percent": percent}
            for name, category, measured, percent in (
                ("AdamW", "peak", 40, 1.0), ("AdamW", "state", 9, 0.0), ("SWAN", "peak", 30, -6.0),
            )
        ],
    })  # fmt: skip
    put("train/swan/seed0/summary.json", {
        "settings": {"model": "configs/models/2b.json"}, "optimizer": "SWAN", "zero_stage": 2,
        "tokens": 640_000, "steps": 20, "seconds_per_step": 3.2, "active_parameters": 2 * 10**9,
        "final_validation_loss": 4.5, "peak_bytes_per_rank": [50 * GIB],
    })  # fmt: skip
    return tmp_path


def value(findings: list[Finding], subject: str, quantity: str) -> Finding:
    (found,) = [f for f in findings if subject in f.subject and quantity in f.quantity]
    return found


def test_every_goal_is_judged(folder: Path) -> None:
    findings = find(folder)
    oracle = value(findings, "9x9", "fastest of others")
    assert (oracle.value, oracle.met) == (3.0 / 2.5, False)
    muon = value(findings, "MatrixMuon", "DeepSpeed's Muon")
    assert (muon.value, muon.met, muon.source) == (0.6, False, "step-2b-2/bench_step.json")
    assert value(findings, "step of SWAN", "DeepSpeed's Muon").met is None
    assert value(findings, "memory of AdamW", "estimated").met is True
    assert value(findings, "memory of SWAN", "estimated").met is False  # -6 %
    assert value(findings, "memory of SWAN", "saved").value == 10


def test_training_by_hand(folder: Path) -> None:
    """32,000 tokens in 3.2 s, 6 x 2e9 operations each, of 8e14; half a second in 50."""
    findings = find(folder)
    (rate,) = [f.value for f in findings if "training 2b" in f.subject and f.quantity == "rate"]
    assert rate == 10_000
    assert value(findings, "training 2b", "large product").value == pytest.approx(15)
    share = value(findings, "training 2b", "optimizer's step")
    assert share.value == pytest.approx(1.0) and share.met


def test_files(folder: Path) -> None:
    table = write(find(folder), folder)
    assert (folder / "gpu_report.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((folder / "gpu_report.json").read_text())["findings"]) == len(table.rows)
    text = (folder / "gpu_report.md").read_text()
    assert (
        "| step of MatrixMuon, 2b, stage 2, bf16 | / DeepSpeed's Muon | 0.6 |  | 0.5 | NO |" in text
    )
    assert (folder / "gpu_report.csv").read_text().count("\n") == len(table.rows) + 1


def test_nothing_measured_is_nothing_found(tmp_path: Path) -> None:
    assert find(tmp_path) == []
