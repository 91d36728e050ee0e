"""One rank of the benchmark, run by torchrun: ``worker SETTINGS RESULTS``."""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

import gradopt_ds  # noqa: F401  makes SWAN, PolarGrad, … known to DeepSpeed's JSON
from gradopt_ds.experiments.common.launcher_watch import end_with_launcher
from gradopt_ds.experiments.common.process_end import end_process
from gradopt_ds.experiments.common.processes import print_on_rank_0, start_processes
from gradopt_ds.experiments.step_benchmark.measure import Measurement, measure
from gradopt_ds.experiments.step_benchmark.optimizers import Candidate, candidates
from gradopt_ds.experiments.step_benchmark.settings import BenchSettings


def main() -> None:
    """Run the benchmark; rank 0 writes the results."""
    settings = BenchSettings.model_validate_json(Path(sys.argv[1]).read_text())
    start_processes()
    results = run(settings)
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(results))
    dist.destroy_process_group()


def run(settings: BenchSettings) -> list[dict[str, Any]]:
    """Calibrate, then measure every optimizer in every round. Collective.

    Each round begins with another optimizer, so that a machine that gets slower with time is
    equally slow for all.
    """
    chosen, calibration = {}, {}
    for name in settings.names:
        chosen[name], calibration[name] = _calibrate(name, settings)
    measurements: dict[str, list[Measurement]] = {name: [] for name in settings.names}
    for round_ in range(settings.repeats):
        first = round_ % len(settings.names)
        for name in (*settings.names[first:], *settings.names[:first]):
            print_on_rank_0(f"round {round_ + 1} of {settings.repeats}: {name}")
            measurements[name].append(measure(chosen[name], settings, count=round_ == 0))
    return [
        {
            "optimizer": name,
            "setting": chosen[name].setting,
            "calibration_ms": calibration[name],
            "config": chosen[name].config(settings.stage, settings.precision),
            "measurements": [asdict(measurement) for measurement in measurements[name]],
        }
        for name in settings.names
    ]


def _calibrate(name: str, settings: BenchSettings) -> tuple[Candidate, dict[str, float]]:
    """Find the fastest candidate of a name, and the shortest step of each in milliseconds."""
    tried = candidates(name, settings.stage, settings.oracle)
    if len(tried) == 1:
        return tried[0], {}
    shortest = {}
    for candidate in tried:
        print_on_rank_0(f"calibrating: {name} with {candidate.setting}")
        shortest[candidate.setting] = min(measure(candidate, settings, count=False).total)
    return min(tried, key=lambda candidate: shortest[candidate.setting]), shortest


if __name__ == "__main__":
    end_with_launcher()
    logging.getLogger("gradopt_ds").setLevel(logging.WARNING)
    main()
    end_process()
