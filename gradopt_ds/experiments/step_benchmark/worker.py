"""One rank of the benchmark, run by torchrun: ``worker SETTINGS RESULTS``."""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

import gradopt_ds  # noqa: F401  makes SWAN, PolarGrad, … known to DeepSpeed's JSON
from gradopt_ds.experiments.common.process_end import end_process
from gradopt_ds.experiments.pretrain.run import start_processes
from gradopt_ds.experiments.step_benchmark.contenders import Contender, candidates
from gradopt_ds.experiments.step_benchmark.measure import Visit, visit
from gradopt_ds.experiments.step_benchmark.settings import BenchSettings


def main() -> None:
    """Run the benchmark; rank 0 writes what was found."""
    settings = BenchSettings.model_validate_json(Path(sys.argv[1]).read_text())
    start_processes()
    found = run(settings)
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(found))
    dist.destroy_process_group()


def run(settings: BenchSettings) -> list[dict[str, Any]]:
    """Calibrate, then visit everyone in every round. Collective.

    Each round begins with another optimizer, so that a machine that gets slower with time is
    unfair to nobody.
    """
    chosen, calibration = {}, {}
    for name in settings.names:
        chosen[name], calibration[name] = _calibrate(name, settings)
    visits: dict[str, list[Visit]] = {name: [] for name in settings.names}
    for round_ in range(settings.repeats):
        first = round_ % len(settings.names)
        for name in (*settings.names[first:], *settings.names[:first]):
            _say(f"round {round_ + 1} of {settings.repeats}: {name}")
            visits[name].append(visit(chosen[name], settings, count=round_ == 0))
    return [
        {
            "optimizer": name,
            "setting": chosen[name].setting,
            "calibration_ms": calibration[name],
            "config": chosen[name].config(settings.stage, settings.precision),
            "visits": [asdict(one) for one in visits[name]],
        }
        for name in settings.names
    ]


def _calibrate(name: str, settings: BenchSettings) -> tuple[Contender, dict[str, float]]:
    """The fastest candidate of a name, and the shortest step of each in milliseconds."""
    wanted = candidates(name, settings.stage, settings.oracle)
    if len(wanted) == 1:
        return wanted[0], {}
    best = {}
    for one in wanted:
        _say(f"calibrating: {name} with {one.setting}")
        best[one.setting] = min(visit(one, settings, count=False).total)
    return min(wanted, key=lambda one: best[one.setting]), best


def _say(message: str) -> None:
    if dist.get_rank() == 0:
        print(message, flush=True)


if __name__ == "__main__":
    logging.getLogger("gradopt_ds").setLevel(logging.WARNING)
    main()
    end_process()
