"""The table of a benchmark: CSV, Markdown, JSON and a figure."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gradopt_ds.experiments.common import figures, provenance, tables
from gradopt_ds.experiments.common.product_rate import best_rate
from gradopt_ds.experiments.common.tables import GFLOP, GFLOP_PER_SECOND, Column, Table
from gradopt_ds.experiments.oracle_benchmark.measure import Row

CASE = (
    Column("shape", "shape", left=True),
    Column("size", "size", left=True),
    Column("spectrum", "spectrum", left=True),
)
"""Which matrix; the Markdown has these in the heading above each table."""

RESULTS = (
    Column("oracle", "oracle", left=True),
    Column("orthogonality", "orthogonality", ".1e"),
    Column("direction", "direction", ".1e"),
    Column("nuclear", "nuclear norm", "+.1e"),
    Column("relative", "time / NS-5", ".2f"),
    Column("seconds", "seconds", ".4f"),
    Column("flops", "", ".2f", GFLOP),
    Column("flops_per_second", "", ".1f", GFLOP_PER_SECOND),
    Column("of_peak", "% of peak", ".1f"),
)


def write(rows: Sequence[Row], total: Sequence[Row], folder: Path, device: str) -> None:
    """Write ``oracles.csv``, ``.md``, ``.json`` and ``.png``.

    The peak is the rate of one large product in the dtype that the device is fastest in.

    Args:
        rows: of single cases.
        total: of all matrices of the model together, one row per oracle.
        folder: where to; made if missing.
        device: its name, for the record.
    """
    facts: dict[str, Any] = {
        "device": device, "threads": torch.get_num_threads(), **best_rate(torch.device(device))
    }  # fmt: skip
    peak = facts["peak_flops_per_second"]
    records = [_record(row, peak) for row in (*rows, *total)]
    provenance.write_json(folder / "oracles.json", {**facts, "rows": records})
    (folder / "oracles.csv").write_text(tables.csv_text(Table((*CASE, *RESULTS), records)))
    head = ", ".join(f"{key}: {value}" for key, value in {**facts, **_origin()}.items())
    (folder / "oracles.md").write_text(f"# Oracles\n\n{head}\n{markdown([*total, *rows], peak)}")
    draw(rows, folder / "oracles.png")


def markdown(rows: Sequence[Row], peak: float) -> str:
    """Write a table for each case.

    Args:
        rows: of all cases.
        peak: floating-point operations per second.
    """
    cases: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault((row.shape, row.size, row.spectrum), []).append(_record(row, peak))
    return "".join(
        f"\n## {shape} ({size}), {spectrum}\n\n{tables.markdown(Table(RESULTS, members))}"
        for (shape, size, spectrum), members in cases.items()
    )


def _record(row: Row, peak: float) -> dict[str, Any]:
    rate = row.flops_per_second
    return {**asdict(row), "flops_per_second": rate, "of_peak": 100 * rate / peak}


def _origin() -> dict[str, Any]:
    facts = provenance.provenance()
    machine = facts["machine"]
    return {
        "torch": facts["versions"]["torch"],
        "machine": f"{machine['cpu']}, {machine['cores']} cores, {machine['platform']}",
        "command": facts["command"],
    }


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw direction error against relative time, a panel for each spectrum."""
    spectra, oracles, shapes = (
        list(dict.fromkeys(getattr(row, key) for row in rows))
        for key in ("spectrum", "oracle", "shape")
    )
    colours = figures.colours(oracles)
    marks = dict(zip(shapes, "os^DvP*X<>", strict=False))
    figure, panels = figures.panels(len(spectra), size=(4 * len(spectra), 5), sharey=True)
    for panel, spectrum in zip(panels, spectra, strict=True):
        for row in rows:
            if row.spectrum == spectrum:
                error = max(row.direction, 1e-9)
                mark = marks.get(row.shape, ".")
                panel.loglog(row.relative, error, mark, color=colours[row.oracle])
        panel.set(title=spectrum, xlabel="time / Newton-Schulz-5")
    panels[0].set_ylabel("direction error against a float64 SVD")
    for oracle in oracles:
        panels[0].plot([], [], "s", color=colours[oracle], label=oracle)
    for shape in shapes:
        panels[0].plot([], [], marks.get(shape, "."), color="grey", label=shape)
    figure.legend(loc="lower center", ncol=7, fontsize=8)
    figures.save(figure, path, below=0.17)
