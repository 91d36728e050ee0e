"""Several optimizers on the same data order: which runs there are, and running them."""

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gradopt_ds.experiments.common import command_line
from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.compare import launch
from gradopt_ds.experiments.pretrain.metrics import Row
from gradopt_ds.experiments.pretrain.settings import RunSettings

NOT_SWEPT = ("deepspeed_config", "output", "seed", "override", "resume", "accept_changes")
"""Settings that differ between runs by what they are, or that every run of a comparison has."""

Point = tuple[tuple[str, float | str], ...]
"""What the grid sets: keys and values."""


@dataclass(frozen=True)
class Member:
    """One run of a comparison."""

    optimizer: str  # the DeepSpeed JSON's name, without zero2_
    point: Point
    settings: RunSettings


@dataclass(frozen=True)
class Result:
    """A member and how it ended."""

    member: Member
    outcome: launch.Outcome


def grid_values(text: str) -> tuple[str, list[float | str]]:
    """Parse ``KEY=LOW:HIGH:COUNT`` (geometric) or ``KEY=A,B,C`` (numbers or words).

    Raises:
        PretrainError: another form, or a key that the comparison sets itself.
    """
    key, _, values = text.partition("=")
    if key in NOT_SWEPT:
        raise PretrainError(f"--grid {text!r}: {key} is not swept, but set by the comparison")
    try:
        if ":" in values:
            low, high, count = values.split(":")
            spaced = np.geomspace(float(low), float(high), int(count))
            if not np.isfinite(spaced).all():
                raise ValueError
            # Three digits: a grid is for people, and 0.0030000000000000005 is not.
            return key, [float(f"{value:.3g}") for value in spaced]
        words = values.split(",")
        if not all(words):
            raise ValueError
        return key, _numbers(words) or [*words]
    except ValueError:
        raise PretrainError(
            f"--grid {text!r}: write KEY=LOW:HIGH:COUNT or KEY=A,B,C, e.g. "
            "optimizer.params.lr=1e-3:1e-1:5, optimizer.params.oracle=adaptive,polar_express or "
            "schedule=cosine,wsd"
        ) from None


def _numbers(words: Sequence[str]) -> list[float | str]:
    """Return all of them as numbers; none unless all are."""
    for kind in (int, float):
        try:
            return [kind(word) for word in words]
        except ValueError:
            continue
    return []


def shown(value: float | str) -> str:
    """Write a grid's value as it is written in names and on command lines."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if isinstance(value, str) or float(short) == value else repr(value)


def members(
    configs: Sequence[Path],
    flags: dict[str, Any],
    seeds: Sequence[int],
    grid: Sequence[str],
    output: Path,
) -> list[Member]:
    """List every config at every grid point with every seed, in that order.

    Args:
        configs: DeepSpeed JSON files.
        flags: settings of every run.
        seeds: of the runs.
        grid: axes, as :func:`grid_values` reads them.
        output: directory of the comparison; every run has one of its own in it.

    Raises:
        PretrainError: settings that do not fit, or two configs of one name.
    """
    names = [path.stem.removeprefix("zero2_") for path in configs]
    if len(set(names)) != len(names):
        raise PretrainError(f"configs must differ in their file names, but are {names}")
    axes = [grid_values(axis) for axis in grid]
    points = [
        tuple(zip([key for key, _ in axes], values, strict=True))
        for values in itertools.product(*(values for _, values in axes))
    ]
    wanted = []
    for (name, config), point, seed in itertools.product(
        zip(names, configs, strict=True), points, seeds
    ):
        run = {key: value for key, value in point if key in RunSettings.model_fields}
        sets = tuple(f"{key}={shown(value)}" for key, value in point if key not in run)
        short = (f"{key.rpartition('.')[2]}={shown(value)}" for key, value in point)
        folder = "_".join([name, *short, f"seed{seed}"])
        own = {
            **flags,
            **run,
            "deepspeed_config": config,
            "override": (*flags.get("override", ()), *sets),
            "seed": seed,
            "output": output / folder,
            "resume": "never",
        }
        wanted.append(Member(name, point, command_line.build(RunSettings, own)))
    if len({member.settings.output for member in wanted}) != len(wanted):
        raise PretrainError("two --grid axes end in the same name: sweep one of them at a time")
    return wanted


def run_all(
    wanted: Sequence[Member], ranks: int, jobs: int, script: Path, fresh: bool, console: Console
) -> list[Result]:
    """Run the members, ``jobs`` at a time; finished ones are reused unless ``fresh``.

    A run that fails is shown with the end of its log, and the others still run.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    stop = threading.Event()
    with (
        Progress(*columns, console=console) as progress,
        ThreadPoolExecutor(jobs, thread_name_prefix="run") as pool,
    ):
        start = partial(_run, ranks=ranks, jobs=jobs, script=script, fresh=fresh, stop=stop)
        runs = [pool.submit(start, member, progress=progress) for member in wanted]
        try:
            return [run.result() for run in runs]
        except BaseException:
            # Threads do not see the interrupt: their launchers are ended through `stop`.
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _run(
    member: Member,
    ranks: int,
    jobs: int,
    script: Path,
    fresh: bool,
    stop: threading.Event,
    progress: Progress,
) -> Result:
    settings = member.settings
    task = progress.add_task(
        settings.output.name,
        total=settings.steps,
        note="starting (compiles DeepSpeed's communication the first time)",
    )

    def watch(row: Row) -> None:
        note = f"step {row['step']}/{settings.steps}, loss {row['loss']:.3f}"
        progress.update(task, completed=row["step"], note=note)

    if not fresh and launch.finished_before(settings, ranks):
        outcome = launch.Outcome("reused")
        progress.update(task, completed=settings.steps)
    else:
        outcome = launch.launch(settings, ranks, jobs, script, watch, stop)
    note = f"{outcome.status} after {outcome.seconds:.0f} s"
    progress.update(task, note=note if outcome.seconds else outcome.status)
    progress.stop_task(task)
    if outcome.status == "failed":
        progress.console.print(
            f"{settings.output.name} failed; {settings.output / launch.LOG} ends with:",
            style="bold red",
        )
        progress.console.print(outcome.tail, markup=False, highlight=False)
    return Result(member, outcome)
