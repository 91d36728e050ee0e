"""The results of the matrix problems: CSV, Markdown, JSON, and a figure for each problem."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from gradopt_ds.experiments.common import figures, provenance, tables
from gradopt_ds.experiments.common.tables import Column, Table
from gradopt_ds.experiments.matrix_problems.problems import PROBLEMS
from gradopt_ds.experiments.matrix_problems.run import Point, Trace

PANELS = {
    "objective": "",
    "residual": "residual",
    "condition": "condition number of the gradient",
    "nuclear": "nuclear norm of the gradient",
}

ENDS = (
    Column("problem", "problem", left=True),
    Column("optimizer", "optimizer", left=True),
    Column("steps", "steps", left=True),
    Column("objective", "objective", ".2e"),
    Column("lowest", "lowest", ".2e"),
    Column("residual", "residual", ".2e"),
    Column("seconds", "CPU s", ".0f"),
)
POINTS = tuple(
    Column(key, key)
    for key in ("problem", "optimizer", "decayed", *(field.name for field in fields(Point)))
)


def ends(traces: Sequence[Trace]) -> Table:
    """Describe the ends of all runs."""
    rows = [
        {
            "problem": trace.task.problem,
            "optimizer": trace.task.optimizer,
            "steps": f"{trace.task.steps}{', decayed' if trace.task.decayed else ''}",
            "objective": trace.points[-1].objective,
            "lowest": min(point.objective for point in trace.points),
            "residual": trace.points[-1].residual,
            "seconds": trace.seconds,
        }
        for trace in traces
    ]
    return Table(ENDS, rows, "after the last step")


def points(traces: Sequence[Trace]) -> Table:
    """Describe every point of all traces."""
    return Table(
        POINTS,
        [{**asdict(trace.task), **asdict(point)} for trace in traces for point in trace.points],
    )


def write(traces: Sequence[Trace], folder: Path) -> None:
    """Write all files.

    ``matrix_problems.csv`` has every point of the traces, ``matrix_problems.json`` the runs with
    their ends, ``ends.csv`` and ``ends.md`` the table of the ends; a PNG file is named after each
    problem.
    """
    runs = [
        {**asdict(trace.task), "seconds": trace.seconds, "end": asdict(trace.points[-1])}
        for trace in traces
    ]
    provenance.write_json(folder / "matrix_problems.json", {"runs": runs})
    (folder / "matrix_problems.csv").write_text(tables.csv_text(points(traces)))
    tables.write(ends(traces), folder / "ends")
    for problem in dict.fromkeys(trace.task.problem for trace in traces):
        own = [trace for trace in traces if trace.task.problem == problem]
        draw(problem, own, folder / f"{problem}.png")


def draw(problem: str, traces: Sequence[Trace], path: Path) -> None:
    """Draw objective, residual, gradient condition number and nuclear norm over steps."""
    figure, panels = figures.panels(len(PANELS), size=(19, 4.6))
    colours = figures.colours(list(dict.fromkeys(trace.task.optimizer for trace in traces)))
    for trace in traces:
        task = trace.task
        steps = [point.step for point in trace.points]
        for panel, key in zip(panels, PANELS, strict=True):
            values = [getattr(point, key) for point in trace.points]
            style = "--" if task.decayed else "-"
            label = f"{task.optimizer}{', decayed' if task.decayed else ''}"
            colour = colours[task.optimizer]
            panel.semilogy(steps, values, style, color=colour, label=label, linewidth=1.2)
    for panel, (key, label) in zip(panels, PANELS.items(), strict=True):
        panel.set(xlabel="steps", ylabel=label or PROBLEMS[problem].measure)
        if key == "condition":
            panel.set_ylim(top=min(panel.get_ylim()[1], 1e9))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=6, fontsize=8)
    figure.suptitle(problem)
    figures.save(figure, path, below=0.1)
