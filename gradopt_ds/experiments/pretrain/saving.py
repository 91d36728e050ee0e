"""When a checkpoint is due: by steps, by the clock, or because the run has been asked to stop."""

import time
from dataclasses import dataclass

import deepspeed.comm as dist
import torch

from gradopt_ds.experiments.common.stopping import StopRequest
from gradopt_ds.experiments.pretrain.run import Run


@dataclass(frozen=True)
class Decision:
    """What all ranks do after a step.

    Attributes:
        save: whether they save a checkpoint.
        stop: whether they leave the loop after it.
    """

    save: bool
    stop: bool


class Saving:
    """Decides after every step whether to save, and whether to go on; the same on all ranks.

    Args:
        run: that is saved.
        stop: of this process.
    """

    def __init__(self, run: Run, stop: StopRequest) -> None:
        self._run = run
        self._stop = stop
        self._saved_at = time.monotonic()

    def save_if_due(self) -> bool:
        """Save if it is time to, and return whether the run is to stop. Collective."""
        decision = self._decide()
        if decision.save:
            self._run.save()
            self._saved_at = time.monotonic()
        return decision.stop

    def _decide(self) -> Decision:
        settings, step = self._run.settings, self._run.step
        minutes = (time.monotonic() - self._saved_at) / 60
        overdue = settings.save_minutes is not None and minutes >= settings.save_minutes
        # Clocks differ, and a signal may reach one rank alone, or a step later than another.
        asked = torch.tensor(
            [self._stop.reason is not None, overdue],
            dtype=torch.int64,
            device=self._run.engine.device,
        )
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        stopped, overdue = (bool(value) for value in asked.tolist())
        ended = step == settings.steps
        saves = settings.save_every > 0 or settings.save_minutes is not None
        due = settings.save_every > 0 and step % settings.save_every == 0
        stop = stopped and not ended
        return Decision(save=due or overdue or stop or (ended and saves), stop=stop)
