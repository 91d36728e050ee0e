"""The picture of a comparison."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a file is wanted, and servers have no screen

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from gradopt_ds.experiments.compare.report import Group

STYLES = ("-", "--", ":", "-.")


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
    """The first key with numbers is the axis; every value of the other keys has its own line."""
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
        told = dict(zip(labels, handles, strict=True))
        panel.legend(told.values(), told.keys())
    values = sorted({group["point"][key] for group in groups})
    if not isinstance(values[0], str):
        panel.set(**({"xscale": "log"} if values[-1] > 4 * values[0] > 0 else {"xticks": values}))
    panel.set(xlabel=key, ylabel="final validation loss, nats per token")
