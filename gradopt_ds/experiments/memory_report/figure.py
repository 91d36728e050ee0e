"""The figures: what fills the memory at its estimated peak, and peaks estimated and measured."""

from collections.abc import Sequence
from pathlib import Path

from gradopt_ds.experiments.common import figures
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
    """Draw stacked bars, GiB.

    ``rest`` is the logits in the backward pass, or copies of gradients in the step.
    """
    # The legend needs three inches.
    figure, (axes,) = figures.panels(1, size=(10, max(3.0, 1.2 + 0.5 * len(rows))))
    for row in rows:
        parts = {key: row[key] for key in (*HELD, *PASSING[row["peak"]])}
        parts["rest"] = row["total"] - sum(parts.values())
        left = 0.0
        for key, size in parts.items():
            axes.barh(row["optimizer"], size / GIB, left=left, color=COLORS[key])
            left += size / GIB
        axes.text(left, row["optimizer"], f" {left:.1f}", va="center")
    for key, color in COLORS.items():
        # Bars without length, for the legend: no single optimizer shows every colour.
        axes.barh(rows[0]["optimizer"], 0, color=color, label=key.replace("_", " "))
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel="GiB per rank at the peak", title=title)
    axes.grid(axis="y", visible=False)
    figures.save(figure, path)


def draw_measured(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw the peaks of every optimizer's rank 0, estimated and measured, GiB.

    Args:
        rows: of a measurement; there may be none.
        title: of the figure.
        path: of the file.
    """
    peaks = [row for row in rows if row["category"] == "peak" and row["rank"] == 0]
    figure, (axes,) = figures.panels(1, size=(8, max(2.5, 1.2 + 0.7 * len(peaks))))
    for shift, (key, color) in enumerate({"estimated": "#bbbbbb", "measured": "#4477aa"}.items()):
        places = [number + 0.4 * shift for number in range(len(peaks))]
        sizes = [row[key] / GIB for row in peaks]
        bars = axes.barh(places, sizes, height=0.36, color=color, label=key)
        axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.set_yticks([number + 0.2 for number in range(len(peaks))])
    axes.set_yticklabels([row["optimizer"] for row in peaks])
    axes.legend(loc="lower right", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="GiB at the peak", title=title)
    axes.grid(axis="y", visible=False)
    figures.save(figure, path)
