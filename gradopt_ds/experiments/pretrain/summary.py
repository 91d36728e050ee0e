"""What is known about a run when it has ended."""

import json
import statistics
from pathlib import Path
from typing import Any

FILE = "summary.json"


def write(directory: Path, facts: dict[str, Any]) -> None:
    """Write ``summary.json`` in one piece: where it stands, the run has ended."""
    path = directory / FILE
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(facts, indent=2) + "\n")
    unfinished.replace(path)


def read(directory: Path) -> dict[str, Any] | None:
    """Return the summary of a finished run, or None."""
    path = directory / FILE
    return json.loads(path.read_text()) if path.is_file() else None


def typical_seconds(seconds: list[float]) -> float:
    """Take the median, which a first slow step and a busy machine disturb little."""
    return statistics.median(seconds) if seconds else float("nan")
