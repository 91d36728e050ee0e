"""The picture of a benchmark."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file is wanted, and servers have no screen

from matplotlib import pyplot as plt

from gradopt_ds.experiments.step_benchmark.report import Row

PANELS = {
    "step_ms": "optimizer step, ms",
    "sent_mb": "sent per rank, MB",
    "state_mb": "optimizer state per rank, MB",
    "peak_mb": "transient per rank, MB",
}


def draw(found: Sequence[Row], title: str, path: Path) -> None:
    """One bar per optimizer in every panel."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(15, 3.8))
    names = [row["optimizer"] for row in found]
    for panel, (key, label) in zip(panels, PANELS.items(), strict=True):
        bars = panel.barh(
            names, [row[key] for row in found], color=[f"C{i}" for i in range(len(found))]
        )
        panel.bar_label(bars, fmt="%.0f", padding=2)
        panel.margins(x=0.2)
        panel.invert_yaxis()
        panel.set(xlabel=label)
        panel.grid(axis="x", alpha=0.3)
        if panel is not panels[0]:
            panel.set(yticklabels=[])
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
