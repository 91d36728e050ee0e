"""The results of a comparison as JSON, CSV and tables."""

import csv
import io
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from gradopt_ds.experiments.compare.comparison import Point, Result, shown
from gradopt_ds.experiments.pretrain import metrics, summary

Group = dict[str, Any]

COLUMNS = {
    "optimizer": "optimizer",
    "setting": "setting",
    "seeds": "seeds",
    "steps": "steps",
    "validation_loss": "val. loss",
    "spread": "± std",
    "state_mib_per_rank": "state MiB",
    "seconds_per_step": "s/step",
    "training_seconds": "train s",
    "status": "status",
}


def gather(results: Sequence[Result]) -> list[Group]:
    """One group per optimizer and grid point, its numbers averaged over the seeds.

    ``validation_loss`` is the loss after the last step in nats per token. A group in which a seed
    did not finish has no numbers. ``best`` marks each optimizer's lowest loss.
    """
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault((result.member.optimizer, result.member.point), []).append(result)
    rows = [_group(name, point, members) for (name, point), members in groups.items()]
    for name in {row["optimizer"] for row in rows}:
        own = [row for row in rows if row["optimizer"] == name and "validation_loss" in row]
        if own:
            min(own, key=lambda row: row["validation_loss"])["best"] = True
    return rows


def _group(name: str, point: Point, results: Sequence[Result]) -> Group:
    statuses = [result.outcome.status for result in results]
    group: Group = {
        "optimizer": name,
        "setting": ", ".join(f"{key.rpartition('.')[2]}={shown(value)}" for key, value in point),
        "point": dict(point),
        "seeds": len(results),
        "status": next((one for one in statuses if one in ("failed", "diverged")), statuses[0]),
        "best": False,
    }
    if group["status"] in ("failed", "diverged"):
        return group
    outputs = [result.member.settings.output for result in results]
    facts = [one for one in map(summary.read, outputs) if one is not None]
    losses = [one["final_validation_loss"] for one in facts]
    held = [max(one["optimizer_state_bytes_per_rank"]) for one in facts]
    return group | {
        "type": facts[0]["optimizer"],
        "params": facts[0]["optimizer_params"],
        "zero_stage": facts[0]["zero_stage"],
        "ranks": facts[0]["ranks"],
        "parameters": facts[0]["parameters"],
        "steps": facts[0]["steps"],
        "tokens": facts[0]["tokens"],
        "validation_loss": statistics.mean(losses),
        "validation_losses": losses,
        "spread": statistics.stdev(losses) if len(losses) > 1 else None,
        "state_bytes_per_rank": max(held),
        "state_mib_per_rank": max(held) / 2**20,
        "seconds_per_step": statistics.mean(one["seconds_per_step"] for one in facts),
        "training_seconds": statistics.mean(one["training_seconds"] for one in facts),
        "wall_seconds": [result.outcome.seconds for result in results],
        "curve": _curve(outputs),
        "commands": [one["command"] for one in facts],
    }


def _curve(outputs: Sequence[Path]) -> dict[str, list[float]]:
    """Validation loss at each validation, averaged over the seeds."""
    traces = [
        [row for row in metrics.read(output / "metrics.jsonl") if "validation_loss" in row]
        for output in outputs
    ]
    keys = ("step", "elapsed_seconds", "validation_loss")
    return {
        key: [statistics.mean(row[key] for row in rows) for rows in zip(*traces, strict=True)]
        for key in keys
    }


def table(groups: Sequence[Group]) -> Table:
    """The table for the terminal."""
    result = Table(title="validation loss in nats per token; optimizer state held per rank")
    keys = _columns(groups)
    for key in keys:
        left = key in ("optimizer", "setting", "status")
        result.add_column(COLUMNS[key], justify="left" if left else "right", no_wrap=left)
    several = any(group["setting"] for group in groups)
    for group in groups:
        style = "bold" if several and group["best"] else None
        result.add_row(*(_cell(group.get(key)) for key in keys), style=style)
    return result


def markdown(groups: Sequence[Group]) -> str:
    """The same table for a document."""
    keys = _columns(groups)
    lines = [
        "| " + " | ".join(COLUMNS[key] for key in keys) + " |",
        "|" + "---|" * len(keys),
        *("| " + " | ".join(_cell(group.get(key)) for key in keys) + " |" for group in groups),
    ]
    return "\n".join(lines) + "\n"


def _columns(groups: Sequence[Group]) -> list[str]:
    empty = {key for key in COLUMNS if all(group.get(key) in (None, "") for group in groups)}
    return [key for key in COLUMNS if key not in empty]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def write(groups: Sequence[Group], directory: Path) -> None:
    """Writes ``comparison.json``, ``.csv`` and ``.md``."""
    told = {
        "command": shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "groups": groups,
    }
    (directory / "comparison.json").write_text(json.dumps(told, indent=2) + "\n")
    (directory / "comparison.md").write_text(markdown(groups))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(groups)
    (directory / "comparison.csv").write_text(text.getvalue())
