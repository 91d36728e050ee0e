"""Everything that was found, as files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.common import figures, provenance, tables
from gradopt_ds.experiments.common.tables import Column, Table
from gradopt_ds.experiments.gpu_report.findings import Finding
from gradopt_ds.experiments.gpu_report.memory import memory
from gradopt_ds.experiments.gpu_report.speed import oracles, steps
from gradopt_ds.experiments.gpu_report.training import training

COLUMNS = (
    Column("subject", "what", left=True),
    Column("quantity", "quantity", left=True),
    Column("value", "figure", ".4g"),
    Column("unit", "unit", left=True),
    Column("most", "goal: at most", "g"),
    Column("met", "met", lambda met: "yes" if met else "NO"),
    Column("source", "file", left=True),
)


def find(folder: Path) -> list[Finding]:
    """Read all parts that have been run so far."""
    return [f for read in (oracles, steps, memory, training) for f in read(folder)]


def write(findings: Sequence[Finding], folder: Path) -> Table:
    """Write ``gpu_report.json``, ``.csv``, ``.md`` and ``.png``; return the table."""
    rows: list[dict[str, Any]] = [{**asdict(f), "met": f.met} for f in findings]
    table = Table(COLUMNS, rows, "on this machine")
    provenance.write_json(folder / "gpu_report.json", {"findings": rows})
    tables.write(table, folder / "gpu_report")
    _draw(findings, folder / "gpu_report.png")
    return table


def _draw(findings: Sequence[Finding], path: Path) -> None:
    """Draw every figure that has a goal, as a part of it; what is beyond the line misses it."""
    judged = [finding for finding in findings if finding.most]
    figure, (axes,) = figures.panels(1, size=(11, max(2.5, 1.2 + 0.28 * len(judged))))
    names = [f"{finding.subject}: {finding.quantity}" for finding in judged]
    parts = [abs(finding.value) / finding.most for finding in judged if finding.most]
    colors = ["#228833" if finding.met else "#cc3311" for finding in judged]
    axes.barh(range(len(judged)), parts, color=colors)
    axes.set_yticks(range(len(judged)))
    axes.set_yticklabels(names, fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel="figure / goal: at most 1")
    axes.grid(axis="y", visible=False)
    figures.save(figure, path)
