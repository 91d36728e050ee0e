"""The results of the matrix problems: CSV, JSON, a table and a picture for each problem."""

import csv
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file is wanted, and servers have no screen

import torch
from matplotlib import pyplot as plt
from rich.table import Table

from gradopt_ds.experiments.matrix_problems.problems import PROBLEMS
from gradopt_ds.experiments.matrix_problems.run import Point, Trace

PANELS = {
    "objective": "",
    "residual": "residual",
    "condition": "condition number of the gradient",
    "nuclear": "nuclear norm of the gradient",
}


def write(traces: Sequence[Trace], folder: Path) -> None:
    """Write ``matrix_problems.csv`` and ``.json``, and a picture for each problem."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(Point)]
    with (folder / "matrix_problems.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["problem", "optimizer", "decayed", *names])
        for trace in traces:
            task = trace.task
            for point in trace.points:
                values = [getattr(point, name) for name in names]
                rows.writerow([task.problem, task.optimizer, task.decayed, *values])
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "machine": platform.platform(),
        "runs": [
            {**asdict(trace.task), "seconds": trace.seconds, "end": asdict(trace.points[-1])}
            for trace in traces
        ],
    }
    (folder / "matrix_problems.json").write_text(json.dumps(facts, indent=1) + "\n")
    for problem in dict.fromkeys(trace.task.problem for trace in traces):
        own = [trace for trace in traces if trace.task.problem == problem]
        draw(problem, own, folder / f"{problem}.png")


def table(traces: Sequence[Trace]) -> Table:
    """The ends of all runs."""
    shown = Table(title="after the last step")
    for column in ("problem", "optimizer", "steps"):
        shown.add_column(column)
    for column in ("objective", "lowest", "residual", "CPU s"):
        shown.add_column(column, justify="right")
    for trace in traces:
        task, end = trace.task, trace.points[-1]
        shown.add_row(
            task.problem,
            task.optimizer,
            f"{task.steps}{', decayed' if task.decayed else ''}",
            f"{end.objective:.2e}",
            f"{min(point.objective for point in trace.points):.2e}",
            f"{end.residual:.2e}",
            f"{trace.seconds:.0f}",
        )
    return shown


def draw(problem: str, traces: Sequence[Trace], path: Path) -> None:
    """Objective, residual, gradient condition number and nuclear norm over steps."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(19, 4.6))
    colours: dict[str, str] = {}
    for trace in traces:
        task = trace.task
        colour = colours.setdefault(task.optimizer, f"C{len(colours)}")
        steps = [point.step for point in trace.points]
        for panel, key in zip(panels, PANELS, strict=True):
            values = [getattr(point, key) for point in trace.points]
            style = "--" if task.decayed else "-"
            label = f"{task.optimizer}{', decayed' if task.decayed else ''}"
            panel.semilogy(steps, values, style, color=colour, label=label, linewidth=1.2)
    for panel, (key, label) in zip(panels, PANELS.items(), strict=True):
        panel.set(xlabel="steps", ylabel=label or PROBLEMS[problem].measure)
        panel.grid(alpha=0.3)
        if key == "condition":
            panel.set_ylim(top=min(panel.get_ylim()[1], 1e9))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=6, fontsize=8)
    figure.suptitle(problem)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=100)
    plt.close(figure)
