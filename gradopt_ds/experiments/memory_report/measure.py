"""Measurements beside their estimates."""

from collections.abc import Callable
from functools import partial
from typing import Any

from gradopt_ds.experiments.common import host_memory, models
from gradopt_ds.experiments.common.launching import run_ranks
from gradopt_ds.experiments.memory_report.report import Row
from gradopt_ds.experiments.memory_report.settings import MeasureSettings
from gradopt_ds.memory.estimate import Estimate, estimate

MODULE = "gradopt_ds.experiments.memory_report.worker"

CATEGORIES: dict[str, tuple[Callable[[Estimate], int], tuple[str, str]]] = {
    "weights": (lambda e: e.weights, ("rest", "weights")),
    "masters": (lambda e: e.masters, ("rest", "masters")),
    "state": (lambda e: e.state, ("rest", "state")),
    "gradients": (lambda e: e.gradients, ("backward", "gradients")),
    "gradients in step": (lambda e: e.step_gradients, ("step", "gradients")),
    "buffers": (lambda e: e.buffers, ("rest", "buffers")),
}
"""Category → its estimate, and the moment and name under which it is measured."""


def measure(
    settings: MeasureSettings, watch: Callable[[str], None]
) -> tuple[list[Row], dict[str, Any], list[str]]:
    """Measure every optimizer in fresh processes, unless it would not fit.

    Returns:
        A row per optimizer, rank and category; by optimizer everything that its ranks measured; and
        why others were not run.

    Raises:
        gradopt_ds.experiments.common.launching.RanksError: a rank failed.
    """
    model = models.on_meta(models.model_config(settings.model, None, settings.sequence_length))
    rows: list[Row] = []
    results: dict[str, Any] = {}
    refused = []
    for name, block in settings.blocks.items():
        try:
            host_memory.check(name, estimate(model, block, settings.setup), settings.processes)
        except host_memory.NotEnoughMemoryError as error:
            refused.append(str(error))
            continue
        watch(f"{name}: starting")
        alone = settings.model_copy(
            update={"optimizers": name, "deepspeed_config": None}
            if name in settings.optimizers.split(",")
            else {"optimizers": ""}
        )
        log = settings.output / f"{name.replace(': ', '_')}.log"
        ranks = run_ranks(MODULE, settings.processes, alone, log, partial(_named, watch, name))
        results[name] = ranks
        for rank, measured in enumerate(ranks):
            expected = estimate(model, block, settings.setup, rank)
            rows += _rows(name, rank, expected, measured)
    return rows, results, refused


def _named(watch: Callable[[str], None], name: str, line: str) -> None:
    watch(f"{name}: {line}")


def _rows(name: str, rank: int, expected: Estimate, measured: dict[str, Any]) -> list[Row]:
    pairs = {
        category: (of(expected), measured["moments"][moment][key])
        for category, (of, (moment, key)) in CATEGORIES.items()
    }
    pairs["peak"] = (expected.total, measured["training"])
    return [
        {
            "optimizer": name,
            "rank": rank,
            "category": category,
            "estimated": estimated,
            "measured": seen,
            "difference_percent": 100 * (seen - estimated) / estimated if estimated else None,
        }
        for category, (estimated, seen) in pairs.items()
    ]
