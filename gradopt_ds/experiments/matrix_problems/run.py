"""One optimizer on one problem, traced; all of them, in parallel processes."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

import torch
from torch.optim.lr_scheduler import StepLR

from gradopt_ds.experiments.matrix_problems.optimizers import OPTIMIZERS
from gradopt_ds.experiments.matrix_problems.problems import PROBLEMS

TRACED = 100
"""Points of a trace: their SVDs would otherwise take longer than the steps."""


@dataclass(frozen=True)
class Task:
    """One run."""

    problem: str
    optimizer: str
    decayed: bool
    steps: int


@dataclass(frozen=True)
class Point:
    """A moment of a run.

    Attributes:
        step: steps taken.
        objective: the problem's measure.
        residual: the problem's residual.
        condition: condition number of the first parameter's gradient.
        nuclear: its nuclear norm.
    """

    step: int
    objective: float
    residual: float
    condition: float
    nuclear: float


@dataclass(frozen=True)
class Trace:
    """A run that has ended.

    Attributes:
        task: which.
        points: its trace.
        seconds: processor time that it took.
    """

    task: Task
    points: list[Point]
    seconds: float


def tasks(problems: Sequence[str], steps: int | None) -> list[Task]:
    """List every optimizer of the problems, with constant and with decayed steps."""
    return [
        Task(problem, optimizer, decayed, steps or PROBLEMS[problem].steps)
        for problem in problems
        for optimizer in OPTIMIZERS[problem]
        for decayed in (False, True)
    ]


def run_all(
    wanted: Sequence[Task], processes: int, progress: Callable[[int, str], object]
) -> list[Trace]:
    """Run the tasks, some at a time.

    Args:
        wanted: the tasks.
        processes: how many at a time, one thread each.
        progress: called with steps just taken and the run that took them.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, context) as pool:
        reports: Queue[tuple[int, str]] = manager.Queue()
        futures = [pool.submit(run, task, reports) for task in wanted]
        while not all(future.done() for future in futures):
            try:
                progress(*reports.get(timeout=0.2))
            except Empty:
                continue
        return [future.result() for future in futures]


def run(task: Task, reports: Any) -> Trace:
    """Take the steps of one run.

    Args:
        task: which.
        reports: a queue for (steps taken, name of the run).
    """
    torch.set_num_threads(1)
    started = time.process_time()
    problem = PROBLEMS[task.problem]()
    optimizer = OPTIMIZERS[task.problem][task.optimizer](problem.parameters)
    interval, factor = problem.decay
    schedule = StepLR(optimizer, interval, factor if task.decayed else 1.0)
    every = max(1, task.steps // TRACED)
    points = []
    for step in range(task.steps + 1):
        optimizer.zero_grad()
        problem.loss().backward()
        if step % every == 0:
            gradient = problem.parameters[0].grad
            assert gradient is not None
            sigma = torch.linalg.svdvals(gradient.double().nan_to_num())
            condition = float(sigma[0] / sigma[-1].clamp(min=1e-300))
            points.append(
                Point(step, problem.objective(), problem.residual(), condition, float(sigma.sum()))
            )
            reports.put((every if step else 0, f"{task.problem}: {task.optimizer}"))
        if step < task.steps:
            optimizer.step()
            schedule.step()
    return Trace(task, points, time.process_time() - started)
