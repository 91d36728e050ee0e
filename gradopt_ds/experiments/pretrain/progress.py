"""What rank 0 shows while it trains: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from gradopt_ds.experiments.pretrain.metrics import Row


class Progress:
    """A progress bar over optimizer steps.

    Args:
        steps: of the whole run.
        done: steps a resumed run starts from.
        shown: whether this rank shows anything.
    """

    def __init__(self, steps: int, done: int, shown: bool) -> None:
        self._shown = shown
        self._steps = steps
        self._every = max(1, steps // 20)
        self._validation = ""
        self._started = time.perf_counter()
        self._first = done
        self._bar = tqdm(
            total=steps,
            initial=done,
            unit="step",
            disable=not (shown and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def show(self, row: Row) -> None:
        """Show one row of metrics."""
        if "validation_loss" in row:
            self._validation = f", validation {row['validation_loss']:.3f}"
        rate = row["tokens"] / row["elapsed_seconds"]
        text = f"loss {row['loss']:.3f}{self._validation}, lr {row['lr']:.1e}, {rate:,.0f} tokens/s"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()
        step = row["step"]
        if self._shown and self._bar.disable and (step % self._every == 0 or step == self._steps):
            left = (time.perf_counter() - self._started) / (step - self._first)
            left *= self._steps - step
            print(f"step {step}/{self._steps}: {text}, {left:.0f} s left", flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
