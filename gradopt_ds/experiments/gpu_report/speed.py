"""Oracles and optimizer steps beside those of others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.gpu_report.findings import Finding, records

QUINTICS = ("newton_schulz 5", "gram_newton_schulz 5", "polar_express 5", "gram_polar_express 5")
"""This library's oracles of five quintic steps, in whatever dtype."""
OTHERS = ("torch.optim.Muon's", "DeepSpeed's")
"""How the names of five quintic steps of others begin."""

BEST = 1.05
"""Goal: times the best of the others."""
HALF = 0.5
"""Goal: times DeepSpeed's Muon."""
DEEPSPEED_MUON = "DeepSpeedMuon"


def oracles(folder: Path) -> Iterator[Finding]:
    """Compare the fastest of five quintic steps with the fastest of others, case by case."""
    for source, record in records(folder, "oracles.json"):
        cases: dict[str, dict[str, float]] = {}
        for row in record["rows"]:
            subject = f"oracles, {row['size']}, {row['spectrum']}"
            cases.setdefault(subject, {})[row["oracle"]] = row["seconds"]
        for subject, seconds in cases.items():
            ours = [s for name, s in seconds.items() if name.startswith(QUINTICS)]
            others = [s for name, s in seconds.items() if name.startswith(OTHERS)]
            if ours and others:
                ratio = min(ours) / min(others)
                yield Finding(subject, "fastest / fastest of others", ratio, "", BEST, source)
        peak = record["peak_flops_per_second"] / 1e12
        yield Finding(f"one large product, {record['peak_dtype']}", "rate", peak, "TFLOP/s",
                      source=source)  # fmt: skip


def steps(folder: Path) -> Iterator[Finding]:
    """Compare the steps of one benchmark with DeepSpeed's Muon."""
    for source, record in records(folder, "bench_step.json"):
        for row in record["optimizers"]:
            subject = f"step of {row['optimizer']}, {_setup(record['settings'])}"
            yield Finding(subject, "time", row["step_ms"], "ms", source=source)
            if row["to_deepspeed_muon"] is not None and row["optimizer"] != DEEPSPEED_MUON:
                ratio = row["to_deepspeed_muon"]
                goal = HALF if row["optimizer"] == "MatrixMuon" else None
                yield Finding(subject, "/ DeepSpeed's Muon", ratio, "", goal, source)


def _setup(settings: dict[str, Any]) -> str:
    return f"{Path(settings['model']).stem}, stage {settings['stage']}, {settings['precision']}"
