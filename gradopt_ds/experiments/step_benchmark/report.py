"""The results of a benchmark: what is read off the visits, as JSON, CSV and tables."""

import csv
import io
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from rich.table import Table

from gradopt_ds.experiments.step_benchmark.contenders import BASELINE, RIVAL
from gradopt_ds.experiments.step_benchmark.settings import BenchSettings

Row = dict[str, Any]

COLUMNS = {
    "optimizer": "optimizer",
    "setting": "setting",
    "step_ms": "step ms",
    "spread_ms": "± ms",
    "to_rival": "/ DS Muon",
    "to_baseline": "/ AdamW",
    "sent_mb": "sent MB",
    "collectives": "collectives",
    "state_mb": "state MB",
    "peak_mb": "transient MB",
    "oracle_gflops_per_second": "oracle GFLOP/s",
}


def rows(found: Sequence[dict[str, Any]]) -> list[Row]:
    """One row per optimizer.

    ``step_ms`` is the median of backward and step together, less the baseline's median backward;
    ``spread_ms`` half the distance between the quartiles; bytes, and the FLOPs of the oracle, are
    those of the rank with the most; MB are 10^6 bytes.

    Args:
        found: what the ranks brought home.
    """
    samples = {one["optimizer"]: _joined(one["visits"]) for one in found}
    backward = statistics.median(samples[BASELINE]["backward"])
    step = {name: statistics.median(own["total"]) - backward for name, own in samples.items()}
    return [
        {
            **one,
            "step_ms": step[one["optimizer"]],
            "spread_ms": _half_quartile_distance(samples[one["optimizer"]]["total"]),
            "backward_ms": statistics.median(samples[one["optimizer"]]["backward"]),
            "to_rival": step[one["optimizer"]] / step[RIVAL] if RIVAL in step else None,
            "to_baseline": step[one["optimizer"]] / step[BASELINE],
            **_counted(samples[one["optimizer"]]["counts"], step[one["optimizer"]]),
        }
        for one in found
    ]


def _joined(visits: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return {key: list(chain.from_iterable(one[key] for one in visits)) for key in visits[0]}


def _half_quartile_distance(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / 2


def _counted(counts: Sequence[dict[str, Any]], step_ms: float) -> Row:
    flops = max(one["flops"] for one in counts)
    return {
        "sent_mb": max(sum(one["sent"].values()) for one in counts) / 1e6,
        "collectives": max(sum(one["calls"].values()) for one in counts),
        "state_mb": max(one["state"] for one in counts) / 1e6,
        "peak_mb": max(one["peak"] for one in counts) / 1e6,
        "oracle_gflops_per_second": flops / step_ms / 1e6 if flops else None,
    }


def table(found: Sequence[Row], settings: BenchSettings) -> Table:
    """The table for the terminal."""
    shown = Table(
        title=f"{settings.model.stem}, ZeRO {settings.stage}, {settings.ranks} ranks, "
        f"{settings.precision}: one optimizer step, per rank"
    )
    for key, heading in COLUMNS.items():
        left = key in ("optimizer", "setting")
        shown.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for row in found:
        shown.add_row(*(_cell(row[key]) for key in COLUMNS))
    return shown


def write(found: Sequence[Row], settings: BenchSettings) -> None:
    """Write ``bench_step.json``, ``.csv`` and ``.md`` into the output directory."""
    told = {
        "command": shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "machine": {
            "cpus": os.cpu_count(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "platform": platform.platform(),
            "torch": torch.__version__,
        },
        "settings": settings.model_dump(mode="json"),
        "optimizers": found,
    }
    into = settings.output / "bench_step"
    into.with_suffix(".json").write_text(json.dumps(told, indent=2) + "\n")
    into.with_suffix(".md").write_text(_markdown(found))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    into.with_suffix(".csv").write_text(text.getvalue())


def _markdown(found: Sequence[Row]) -> str:
    lines = [
        "| " + " | ".join(COLUMNS.values()) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(_cell(row[key]) for key in COLUMNS) + " |" for row in found),
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return str(value)
