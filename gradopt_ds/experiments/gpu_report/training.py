"""How fast models train, and how much of that the optimizer's step takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.gpu_report.findings import Finding, records

TOKENS = 500_000
"""Of the training step that the optimizer's step is compared with."""
SHARE = 3.0
"""Goal: per cent of such a step."""
FLOPS = 6
"""Floating-point operations per token and active parameter, forward and backward; attention's
products of tokens with tokens are left out."""


def training(folder: Path) -> Iterator[Finding]:
    """Read every training run."""
    peak = max(
        (record["peak_flops_per_second"] for _, record in records(folder, "oracles.json")),
        default=None,
    )
    for source, run in records(folder, "summary.json"):
        rate = run["tokens"] / run["steps"] / run["seconds_per_step"]
        subject = f"training {Path(run['settings']['model']).stem}, {_name(run)}"
        yield Finding(subject, "rate", rate, "tokens/s", source=source)
        if peak is not None:
            share = 100 * rate * FLOPS * run["active_parameters"] / peak
            yield Finding(subject, "of the rate of a large product", share, "%", source=source)
        yield Finding(subject, "validation loss", run["final_validation_loss"], source=source)
        yield Finding(subject, "peak", max(run["peak_bytes_per_rank"]) / 2**30, "GiB",
                      source=source)  # fmt: skip
        yield from _share_of_step(folder, run, rate, subject)


def _share_of_step(
    folder: Path, run: dict[str, Any], rate: float, subject: str
) -> Iterator[Finding]:
    for source, record in records(folder, "bench_step.json"):
        settings = record["settings"]
        same_model = Path(settings["model"]).stem == Path(run["settings"]["model"]).stem
        if not same_model or settings["stage"] != run["zero_stage"]:
            continue
        for row in record["optimizers"]:
            if row["optimizer"].lower() == _name(run).lower():
                share = 100 * row["step_ms"] / 1e3 / (TOKENS / rate)
                quantity = f"optimizer's step in one of {TOKENS:,} tokens"
                yield Finding(subject, quantity, share, "%", SHARE, source)


def _name(run: dict[str, Any]) -> str:
    """Name the optimizer as the benchmark of steps does; its ``Muon`` is DeepSpeed's."""
    name = str(run["optimizer"])
    return "DeepSpeedMuon" if name.lower() == "muon" else name
