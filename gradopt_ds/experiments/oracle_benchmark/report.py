"""The table of a benchmark: CSV, Markdown, JSON and a picture."""

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

from gradopt_ds.experiments.oracle_benchmark.measure import Row

HEAD = ("orthogonality", "direction", "nuclear norm", "time / NS-5", "seconds", "GFLOP", "GFLOP/s")


def write(rows: Sequence[Row], total: Sequence[Row], folder: Path, device: str) -> None:
    """Write ``oracles.csv``, ``.md``, ``.json`` and ``.png``.

    Args:
        rows: of single cases.
        total: of all matrices of the model together, one row per oracle.
        folder: where to; made if missing.
        device: its name, for the record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(Row)]
    everything = [*rows, *total]
    with (folder / "oracles.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*names, "flops_per_second"])
        table.writerows(
            [*(getattr(row, name) for name in names), row.flops_per_second] for row in everything
        )
    origin = {
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.platform(),
        "command": shlex.join(["python", *sys.argv]),
    }
    found = [{**asdict(row), "flops_per_second": row.flops_per_second} for row in everything]
    text = json.dumps({"origin": origin, "rows": found}, indent=1)
    (folder / "oracles.json").write_text(text + "\n")
    (folder / "oracles.md").write_text(markdown(rows, total, origin))
    draw(rows, folder / "oracles.png")


def markdown(rows: Sequence[Row], total: Sequence[Row], origin: dict[str, object]) -> str:
    """A table for each case, and one for the model."""
    lines = ["# Oracles", "", ", ".join(f"{key}: {value}" for key, value in origin.items())]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in [*total, *rows]:
        groups.setdefault((row.shape, row.size, row.spectrum), []).append(row)
    for (shape, size, spectrum), members in groups.items():
        lines += [
            "",
            f"## {shape} ({size}), {spectrum}",
            "",
            "| oracle | " + " | ".join(HEAD) + " |",
        ]
        lines.append("|---" * (len(HEAD) + 1) + "|")
        lines += [
            f"| {row.oracle} | {row.orthogonality:.1e} | {row.direction:.1e} | {row.nuclear:+.1e} "
            f"| {row.relative:.2f} | {row.seconds:.4f} | {row.flops / 1e9:.2f} "
            f"| {row.flops_per_second / 1e9:.1f} |"
            for row in members
        ]
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Direction error against relative time, a panel for each spectrum."""
    spectra = list(dict.fromkeys(row.spectrum for row in rows))
    oracles = list(dict.fromkeys(row.oracle for row in rows))
    shapes = list(dict.fromkeys(row.shape for row in rows))
    colours = dict(zip(oracles, plt.get_cmap("tab20")(range(20)), strict=False))
    marks = dict(zip(shapes, "os^DvP*X<>", strict=False))
    figure, panels = plt.subplots(
        1, len(spectra), figsize=(4 * len(spectra), 5), sharey=True, squeeze=False
    )
    for panel, spectrum in zip(panels[0], spectra, strict=True):
        for row in rows:
            if row.spectrum == spectrum:
                panel.loglog(
                    row.relative,
                    max(row.direction, 1e-9),
                    marks.get(row.shape, "."),
                    color=colours.get(row.oracle, "k"),
                )
        panel.set(title=spectrum, xlabel="time / Newton-Schulz-5")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("direction error against a float64 SVD")
    for oracle in oracles:
        panels[0][0].plot([], [], "s", color=colours.get(oracle, "k"), label=oracle)
    for shape in shapes:
        panels[0][0].plot([], [], marks.get(shape, "."), color="grey", label=shape)
    figure.legend(loc="lower center", ncol=7, fontsize=8)
    figure.tight_layout(rect=(0, 0.17, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
