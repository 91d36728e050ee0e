"""The picture of an estimate: what fills the memory at its peak, one bar per optimizer."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file is wanted, and servers have no screen

from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from gradopt_ds.experiments.memory_report.report import GIB, Row

HELD = ("weights", "masters", "state_matrix", "state_aux", "buffers")
PASSING = {
    "backward": ("gradients", "communication", "activations"),
    "step": ("step_gradients", "workspace"),
}
COLORS = {
    "weights": "#4477aa",
    "masters": "#66ccee",
    "state_matrix": "#ee6677",
    "state_aux": "#ffaabb",
    "buffers": "#bbbbbb",
    "gradients": "#228833",
    "step_gradients": "#77bb77",
    "communication": "#dddddd",
    "workspace": "#aa3377",
    "activations": "#ccbb44",
    "rest": "#eeeeee",
}


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Stacked bars, GiB. ``rest`` is the logits in the backward pass, or copies of gradients."""
    figure, axes = plt.subplots(figsize=(10, 1.2 + 0.5 * len(rows)))
    for row in rows:
        parts = {key: row[key] for key in (*HELD, *PASSING[row["peak"]])}
        parts["rest"] = row["total"] - sum(parts.values())
        left = 0.0
        for key, size in parts.items():
            axes.barh(row["optimizer"], size / GIB, left=left, color=COLORS[key])
            left += size / GIB
        axes.text(left, row["optimizer"], f" {left:.1f}", va="center")
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in COLORS.values()]
    axes.legend(
        handles, [key.replace("_", " ") for key in COLORS], loc="center left",
        bbox_to_anchor=(1.02, 0.5), fontsize=8,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel="GiB per rank at the peak", title=title)
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
