"""What is known about a run when it has ended."""

import importlib.metadata
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

FILE = "summary.json"


def write(directory: Path, facts: dict[str, Any]) -> None:
    """Writes ``summary.json`` in one piece: where it stands, the run has ended."""
    path = directory / FILE
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(facts, indent=2) + "\n")
    unfinished.replace(path)


def read(directory: Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None."""
    path = directory / FILE
    return json.loads(path.read_text()) if path.is_file() else None


def origin() -> dict[str, str | None]:
    """Which code ran, and by which command."""
    return {
        "version": _version(),
        "commit": _commit(),
        "command": shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
    }


def typical_seconds(seconds: list[float]) -> float:
    """Median, which a first slow step and a busy machine disturb little."""
    return statistics.median(seconds) if seconds else float("nan")


def _version() -> str | None:
    try:
        return importlib.metadata.version("gradopt-ds")
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip() or None
