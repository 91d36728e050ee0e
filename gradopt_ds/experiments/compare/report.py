"""The results of a comparison as JSON, CSV and tables."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.common import provenance, tables
from gradopt_ds.experiments.common.tables import Column, Table
from gradopt_ds.experiments.compare.comparison import Point, Result, shown
from gradopt_ds.experiments.pretrain import metrics, summary

Group = dict[str, Any]

COLUMNS = (
    Column("optimizer", "optimizer", left=True),
    Column("setting", "setting", left=True),
    Column("seeds", "seeds"),
    Column("steps", "steps"),
    Column("validation_loss", "val. loss", ".3f"),
    Column("spread", "± std", ".3f"),
    Column("state_mib_per_rank", "state MiB", ".3f"),
    Column("seconds_per_step", "s/step", ".3f"),
    Column("training_seconds", "train s", ".3f"),
    Column("status", "status", left=True),
)


def gather(results: Sequence[Result]) -> list[Group]:
    """Make one group per optimizer and grid point, its numbers averaged over the seeds.

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
        "status": next((s for s in statuses if s in ("failed", "diverged")), statuses[0]),
        "best": False,
    }
    if group["status"] in ("failed", "diverged"):
        return group
    outputs = [result.member.settings.output for result in results]
    facts = [run for run in map(summary.read, outputs) if run is not None]
    losses = [run["final_validation_loss"] for run in facts]
    held = [max(run["optimizer_state_bytes_per_rank"]) for run in facts]
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
        "seconds_per_step": statistics.mean(run["seconds_per_step"] for run in facts),
        "training_seconds": statistics.mean(run["training_seconds"] for run in facts),
        "wall_seconds": [result.outcome.seconds for result in results],
        "curve": _curve(outputs),
        "commands": [run["command"] for run in facts],
    }


def _curve(outputs: Sequence[Path]) -> dict[str, list[float]]:
    """Average the loss at each validation over the seeds."""
    traces = [
        [row for row in metrics.read(output / "metrics.jsonl") if "validation_loss" in row]
        for output in outputs
    ]
    keys = ("step", "elapsed_seconds", "validation_loss")
    return {
        key: [statistics.mean(row[key] for row in rows) for rows in zip(*traces, strict=True)]
        for key in keys
    }


def make_table(groups: Sequence[Group]) -> Table:
    """Describe the groups as a table, without the columns in which nothing would stand."""
    columns = [
        column
        for column in COLUMNS
        if any(group.get(column.key) not in (None, "") for group in groups)
    ]
    title = "validation loss in nats per token; optimizer state held per rank"
    return Table(columns, groups, title)


def best(groups: Sequence[Group]) -> list[int]:
    """Find the number of the best group of every optimizer, where a grid has given it several."""
    if not any(group["setting"] for group in groups):
        return []
    return [number for number, group in enumerate(groups) if group["best"]]


def write(groups: Sequence[Group], directory: Path) -> None:
    """Write ``comparison.json``, ``.csv`` and ``.md``.

    The CSV always has all columns, so that files of several comparisons can be joined.
    """
    provenance.write_json(directory / "comparison.json", {"groups": groups})
    tables.write(make_table(groups), directory / "comparison")
    (directory / "comparison.csv").write_text(tables.csv_text(Table(COLUMNS, groups)))
