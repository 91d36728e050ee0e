"""Where results come from: command, versions, machine, commit and date, in every JSON."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import gradopt_ds
from gradopt_ds.ops.oracles.precision import default_compute_dtype

PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "tokenizers", "numpy")
"""Whose versions are recorded, where they are installed."""
CPUINFO = Path("/proc/cpuinfo")


def provenance() -> dict[str, Any]:
    """Describe this process, for a JSON.

    Returns:
        ``command``, as a shell takes it; ``date`` in UTC; ``commit`` of this library's code, with
        ``-dirty`` where files are changed, or None outside of its repository; ``versions``;
        ``machine``.
    """
    return {
        "command": shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(Path(__file__)),
        "versions": versions(),
        "machine": machine(),
    }


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON with its provenance first; make its directory if it is missing.

    Raises:
        ValueError: ``facts`` has a key of the provenance, of which one would be lost.
    """
    origin = provenance()
    if shared := origin.keys() & facts.keys():
        raise ValueError(f"{path.name}: {', '.join(sorted(shared))} is part of the provenance")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**origin, **facts}, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of Python, of this library and of installed :data:`PACKAGES`."""
    known = {"python": platform.python_version(), "gradopt-ds": gradopt_ds.__version__}
    for package in PACKAGES:
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue
    return known


def machine() -> dict[str, Any]:
    """Describe the hardware as far as it decides times and compute dtypes."""
    return {
        "platform": platform.platform(),
        "cpu": cpu_model(CPUINFO.read_text() if CPUINFO.is_file() else ""),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "native_bfloat16": default_compute_dtype(torch.device("cpu")) is torch.bfloat16,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def cpu_model(cpuinfo: str) -> str:
    """Read the model's name off ``/proc/cpuinfo``; the architecture's where there is none.

    Args:
        cpuinfo: the file's text.
    """
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def commit(file: Path) -> str | None:
    """Name the commit of the repository that tracks ``file``; None where none does.

    A package that is installed below some other repository is not part of that one's commit.
    """
    tracked = _git(file.parent, "ls-files", "--error-unmatch", file.name)
    if tracked is None:
        return None
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None
