"""The trace of a run: one row per optimizer step, the same in JSONL and CSV."""

import csv
import io
import json
from pathlib import Path
from typing import Any

COLUMNS = (
    "step",  # optimizer steps done, from 1
    "tokens",  # trained on so far, over all ranks
    "loss",  # nats per token, averaged over ranks and micro batches, before the step
    "lr",  # of the first parameter group, used in the step
    "grad_norm",  # global, before clipping
    "step_seconds",
    "elapsed_seconds",  # training time so far: validation, saving and start-up left out
    "validation_loss",  # nats per token after the step, where it was measured
    "perplexity",  # of the loss
    # Of rank 0, see throughput.py; operations and tokens over all ranks.
    "tokens_per_second",
    "model_flops_per_second",
    "mfu",  # of the GPUs' operations per second, where those are known
    "data_wait_seconds",
    "optimizer_seconds",
    "memory_bytes",
    "peak_memory_bytes",
    # Mixtures of experts only, see routing.py; the router's loss is in no other column.
    "router_loss",
    "load_max_over_mean",
    "idle_experts",
    "dropped_tokens",
)
"""Of the CSV. The JSONL also has ``expert_load``, a list of lists, and ``learning_rates``."""

Row = dict[str, Any]


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` and ``metrics.csv``; used on rank 0 only.

    Args:
        directory: of the two files.
        after: the step a resumed run starts from. Rows beyond it, which the interrupted run wrote
            after its last checkpoint, are dropped, so that every step stands in the trace once.
    """

    def __init__(self, directory: Path, after: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        jsonl, table = directory / "metrics.jsonl", directory / "metrics.csv"
        kept = [row for row in read(jsonl) if row["step"] <= after]
        _replace(jsonl, "".join(json.dumps(row) + "\n" for row in kept))
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        _replace(table, text.getvalue())
        # Line buffered: a killed run leaves whole rows.
        self._jsonl = jsonl.open("a", buffering=1)
        self._csv = table.open("a", buffering=1, newline="")
        self._writer = csv.DictWriter(
            self._csv, COLUMNS, lineterminator="\n", extrasaction="ignore"
        )

    def add(self, row: Row) -> None:
        """Write one step; columns that are missing stay empty in the CSV."""
        self._jsonl.write(json.dumps(row) + "\n")
        self._writer.writerow(row)

    def close(self) -> None:
        """Close both files."""
        self._jsonl.close()
        self._csv.close()


def read(path: Path) -> list[Row]:
    """Return the rows of a ``metrics.jsonl``; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_suffix(path.suffix + ".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
