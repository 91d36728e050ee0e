"""The benchmark on fresh local ranks."""

from collections.abc import Callable
from typing import Any

from gradopt_ds.experiments.common.launching import run_ranks
from gradopt_ds.experiments.step_benchmark.settings import BenchSettings

LOG = "log.txt"


def launch(settings: BenchSettings, watch: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run the benchmark; the ranks' errors go to ``log.txt`` beside the results.

    Args:
        settings: of the benchmark.
        watch: called with each line that says how far the benchmark is.

    Raises:
        gradopt_ds.experiments.common.launching.RanksError: a rank failed.
    """
    log = settings.output / LOG
    return run_ranks(
        "gradopt_ds.experiments.step_benchmark.worker", settings.ranks, settings, log, watch
    )
