"""The figure of a benchmark."""

from collections.abc import Sequence
from pathlib import Path

from gradopt_ds.experiments.common import figures
from gradopt_ds.experiments.step_benchmark.report import Row

PANELS = {
    "step_ms": "optimizer step, ms",
    "sent_mb": "sent per rank, MB",
    "state_mb": "optimizer state per rank, MB",
    "peak_mb": "transient per rank, MB",
}


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw one bar per optimizer in every panel."""
    figure, panels = figures.panels(len(PANELS), size=(15, 3.8))
    names = [row["optimizer"] for row in rows]
    colours = figures.colours(names)
    for panel, (key, label) in zip(panels, PANELS.items(), strict=True):
        bars = panel.barh(names, [row[key] for row in rows], color=list(colours.values()))
        panel.bar_label(bars, fmt="%.0f", padding=2)
        panel.margins(x=0.2)
        panel.invert_yaxis()
        panel.set(xlabel=label)
        panel.grid(axis="y", visible=False)
        if panel is not panels[0]:
            panel.set(yticklabels=[])
    figure.suptitle(title)
    figures.save(figure, path)
