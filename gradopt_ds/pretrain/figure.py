"""The picture of a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a file is wanted, and servers have no screen

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from gradopt_ds.pretrain.report import Group


def draw(groups: Sequence[Group], path: Path) -> None:
    """Validation loss against steps and training time, state bytes, and the grid if there is one.

    Only each optimizer's best grid point has curves; the grid panel shows the others.
    """
    finished = [group for group in groups if "validation_loss" in group]
    best = [group for group in finished if group["best"]]
    swept = bool(finished) and bool(finished[0]["point"])
    figure, panels = plt.subplots(1, 4 if swept else 3, figsize=(18 if swept else 14, 4.2))
    colours = {group["optimizer"]: f"C{number}" for number, group in enumerate(best)}
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
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(panel: Axes, groups: Sequence[Group], colours: dict[str, str]) -> None:
    names = [group["optimizer"] for group in groups]
    sizes = [group["state_mib_per_rank"] for group in groups]
    bars = panel.bar(names, sizes, color=[colours[name] for name in names])
    panel.bar_label(bars, fmt="%.2f")
    panel.margins(y=0.1)
    panel.set(ylabel="optimizer state, MiB per rank")
    panel.tick_params(axis="x", rotation=20)


def _grid(panel: Axes, groups: Sequence[Group], colours: dict[str, str]) -> None:
    key = next(iter(groups[0]["point"]))
    for name, colour in colours.items():
        own: list[Any] = [group for group in groups if group["optimizer"] == name]
        own.sort(key=lambda group: group["point"][key])
        points = [group["point"][key] for group in own]
        losses = [group["validation_loss"] for group in own]
        spread = [group["spread"] or 0.0 for group in own]
        panel.errorbar(points, losses, spread, color=colour, marker="o", capsize=3)
    panel.set(xscale="log", xlabel=key, ylabel="final validation loss, nats per token")
