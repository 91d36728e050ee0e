"""Figures in one style, written as PNG files.

Matplotlib is imported when the first figure is made, after the runs whose cores the import would
take. That it is installed is checked as soon as this module is imported.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradopt_ds.experiments.common.extra import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

require("matplotlib")

DPI = 120


def panels(count: int, size: tuple[float, float], **options: Any) -> "tuple[Figure, list[Axes]]":
    """Make a figure with panels side by side.

    The figure belongs to no window and no global state, so no screen is needed and nothing has to
    be closed.

    Args:
        count: number of panels.
        size: width and height of the whole figure in inches.
        options: further arguments of ``Figure.subplots``, e.g. ``sharey=True``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI)
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, count, squeeze=False, **options)[0])
    for panel in axes:
        panel.grid(alpha=0.3)
    return figure, axes


def save(figure: "Figure", path: Path, below: float = 0.0) -> None:
    """Write a figure as a PNG file; make its directory if it is missing.

    Args:
        figure: what to write.
        path: of the file.
        below: share of the height that is kept for a legend below the panels.
    """
    figure.tight_layout(rect=(0, below, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def colours(names: Sequence[str]) -> dict[str, Any]:
    """Give each of up to twenty names a colour of its own; more names begin again."""
    from matplotlib import colormaps

    # Ten strong colours, and only where they do not suffice the twenty of strong and pale ones.
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: palette(number % palette.N) for number, name in enumerate(names)}
