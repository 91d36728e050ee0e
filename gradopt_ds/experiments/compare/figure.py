"""The figure of a comparison."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradopt_ds.experiments.common import figures
from gradopt_ds.experiments.compare.report import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ("-", "--", ":", "-.")


def draw(groups: Sequence[Group], path: Path) -> None:
    """Draw validation loss against steps and time, state bytes, and the grid if there is one.

    Only each optimizer's best grid point has curves; the grid panel shows the others.
    """
    finished = [group for group in groups if "validation_loss" in group]
    best = [group for group in finished if group["best"]]
    swept = bool(finished) and bool(finished[0]["point"])
    figure, panels = figures.panels(4 if swept else 3, size=(18 if swept else 14, 4.2))
    colours = figures.colours([group["optimizer"] for group in best])
    for group in best:
        label = " ".join(filter(None, (group["optimizer"], group["setting"])))
        curve, colour = group["curve"], colours[group["optimizer"]]
        loss = curve["validation_loss"]
        panels[0].plot(curve["step"], loss, color=colour, label=label, marker=".")
        panels[1].plot(curve["elapsed_seconds"], loss, color=colour, marker=".")
    panels[0].set(xlabel="optimizer steps", ylabel="validation loss, nats per token")
    panels[1].set(xlabel="training time, s", ylabel="validation loss, nats per token")
    if best:
        panels[0].legend()
    _bars(panels[2], best, colours)
    if swept:
        _grid(panels[3], finished, colours)
    figures.save(figure, path)


def _bars(panel: "Axes", groups: Sequence[Group], colours: dict[str, Any]) -> None:
    names = [group["optimizer"] for group in groups]
    sizes = [group["state_mib_per_rank"] for group in groups]
    bars = panel.bar(names, sizes, color=[colours[name] for name in names])
    panel.bar_label(bars, fmt="%.2f")
    panel.margins(y=0.1)
    panel.set(ylabel="optimizer state, MiB per rank")
    panel.tick_params(axis="x", rotation=20)


def _grid(panel: "Axes", groups: Sequence[Group], colours: dict[str, Any]) -> None:
    """Draw over the first key with numbers; every value of the other keys has its own line."""
    point = groups[0]["point"]
    key = next(
        (key for key, value in point.items() if not isinstance(value, str)), next(iter(point))
    )
    lines: dict[tuple[str, str], list[Any]] = {}
    for group in groups:
        others = (f"{name}={value}" for name, value in group["point"].items() if name != key)
        lines.setdefault((group["optimizer"], ", ".join(others)), []).append(group)
    styles = dict(
        zip(dict.fromkeys(rest for _, rest in lines), itertools.cycle(STYLES), strict=False)
    )
    for (name, rest), own in lines.items():
        own.sort(key=lambda group: group["point"][key])
        points = [group["point"][key] for group in own]
        losses = [group["validation_loss"] for group in own]
        spread = [group["spread"] or 0.0 for group in own]
        panel.errorbar(
            points, losses, spread, color=colours[name], linestyle=styles[rest],
            label=rest, marker="o", capsize=3,
        )  # fmt: skip
    if len(styles) > 1:
        # One optimizer's lines show the styles; the colours stand in the first panel.
        handles, labels = panel.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        panel.legend(shown.values(), shown.keys())
    values = sorted({group["point"][key] for group in groups})
    if not isinstance(values[0], str):
        panel.set(**({"xscale": "log"} if values[-1] > 4 * values[0] > 0 else {"xticks": values}))
    panel.set(xlabel=key, ylabel="final validation loss, nats per token")
