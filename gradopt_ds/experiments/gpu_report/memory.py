"""What the allocator counted: beside the estimate, and beside AdamW."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.gpu_report.findings import Finding, records

WITHIN = 5.0
"""Goal: per cent between the estimate of a peak and the measurement."""
BASELINE = "AdamW"
GIB = 2**30


def memory(folder: Path) -> Iterator[Finding]:
    """Read every measurement of memory."""
    for source, record in records(folder, "measure.json"):
        settings = record["settings"]
        setup = f"{Path(settings['model']).stem}, stage {settings['stage']}, "
        setup += str(settings["precision"])
        peaks = [row for row in record["rows"] if row["category"] == "peak" and row["rank"] == 0]
        most = {row["optimizer"]: row["measured"] for row in peaks}
        for row in peaks:
            subject = f"memory of {row['optimizer']}, {setup}"
            yield Finding(subject, "peak", row["measured"] / GIB, "GiB", source=source)
            off = row["difference_percent"]
            yield Finding(subject, "measured - estimated", off, "%", WITHIN, source)
            yield from _saved(subject, row, most, source)


def _saved(
    subject: str, row: dict[str, Any], most: dict[str, int], source: str
) -> Iterator[Finding]:
    if BASELINE in most and row["optimizer"] != BASELINE:
        saved = (most[BASELINE] - row["measured"]) / GIB
        yield Finding(subject, f"saved against {BASELINE}", saved, "GiB", source=source)
