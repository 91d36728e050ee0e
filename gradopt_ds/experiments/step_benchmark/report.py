"""The results of a benchmark: what is read off the measurements, as JSON, CSV and tables."""

import statistics
from collections.abc import Sequence
from itertools import chain
from typing import Any

from gradopt_ds.experiments.common import provenance, tables
from gradopt_ds.experiments.common.tables import Column, Table, two_digits
from gradopt_ds.experiments.step_benchmark.optimizers import BASELINE, DEEPSPEED_MUON
from gradopt_ds.experiments.step_benchmark.settings import BenchSettings

Row = dict[str, Any]

COLUMNS = (
    Column("optimizer", "optimizer", left=True),
    Column("setting", "setting", left=True),
    Column("step_ms", "step ms", two_digits),
    Column("spread_ms", "± ms", two_digits),
    Column("to_deepspeed_muon", "/ DS Muon", two_digits),
    Column("to_baseline", "/ AdamW", two_digits),
    Column("sent_mb", "sent MB", two_digits),
    Column("collectives", "collectives"),
    Column("state_mb", "state MB", two_digits),
    Column("peak_mb", "transient MB", two_digits),
    Column("oracle_gflops_per_second", "oracle GFLOP/s", two_digits),
    Column("host_ms", "host ms", two_digits),
    Column("operations", "operations"),
    Column("allocated_mb", "allocated MB", two_digits),
)


def make_rows(results: Sequence[dict[str, Any]]) -> list[Row]:
    """Make one row per optimizer.

    ``step_ms`` is the median of backward and step together, less the baseline's median backward;
    ``spread_ms`` half the distance between the quartiles; bytes, and the FLOPs of the oracle, are
    those of the rank with the most; MB are 10^6 bytes. ``host_ms`` is the CPU's time in backward
    and step, nothing taken off.

    Args:
        results: as :func:`gradopt_ds.experiments.step_benchmark.worker.run` returns them.
    """
    samples = {result["optimizer"]: _joined(result["measurements"]) for result in results}
    common = statistics.median(samples[BASELINE]["backward"])
    step = {name: statistics.median(own["total"]) - common for name, own in samples.items()}
    return [
        {
            **result,
            "step_ms": step[name],
            "spread_ms": _half_quartile_distance(samples[name]["total"]),
            "backward_ms": statistics.median(samples[name]["backward"]),
            "host_ms": statistics.median(samples[name]["host"]),
            "to_deepspeed_muon": (
                step[name] / step[DEEPSPEED_MUON] if DEEPSPEED_MUON in step else None
            ),
            "to_baseline": step[name] / step[BASELINE],
            **_counted(samples[name]["counts"], step[name]),
        }
        for name, result in zip(samples, results, strict=True)
    ]


def _joined(measurements: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return {
        key: list(chain.from_iterable(measurement[key] for measurement in measurements))
        for key in measurements[0]
    }


def _half_quartile_distance(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / 2


def _counted(ranks: Sequence[dict[str, Any]], step_ms: float) -> Row:
    flops = max(rank["flops"] for rank in ranks)
    return {
        "sent_mb": max(sum(rank["sent"].values()) for rank in ranks) / 1e6,
        "collectives": max(sum(rank["calls"].values()) for rank in ranks),
        "state_mb": max(rank["state"] for rank in ranks) / 1e6,
        "peak_mb": max(rank["peak"] for rank in ranks) / 1e6,
        "oracle_gflops_per_second": flops / step_ms / 1e6 if flops else None,
        "operations": max(rank["operations"] for rank in ranks),
        "allocated_mb": (
            max(rank["allocated"] for rank in ranks) / 1e6 if ranks[0]["allocated"] else None
        ),
    }


def make_table(rows: Sequence[Row], settings: BenchSettings) -> Table:
    """Describe the rows as a table."""
    return Table(
        COLUMNS,
        rows,
        f"{settings.model.stem}, ZeRO {settings.stage}, {settings.ranks} ranks, "
        f"{settings.precision}: one optimizer step, per rank",
    )


def write(table: Table, settings: BenchSettings) -> None:
    """Write ``bench_step.json``, ``.csv`` and ``.md`` into the output directory."""
    path = settings.output / "bench_step"
    facts = {"settings": settings.model_dump(mode="json"), "optimizers": table.rows}
    provenance.write_json(path.with_suffix(".json"), facts)
    tables.write(table, path)
