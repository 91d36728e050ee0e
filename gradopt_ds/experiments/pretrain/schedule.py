"""Learning rate over the steps, from transformers' schedules."""

from collections.abc import Callable
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_wsd_schedule,
)

from gradopt_ds.experiments.common.errors import PretrainError

FINAL_SHARE = 0.1  # of the peak, at the last step


def scheduler(
    name: Literal["cosine", "wsd", "constant"], steps: int, warmup: int
) -> Callable[[Optimizer], LambdaLR]:
    """Return what ``deepspeed.initialize(lr_scheduler=…)`` calls with the live optimizer.

    Every schedule multiplies each group's own peak, so ratios between groups survive.

    * ``cosine``: linear warm-up, then half a cosine to a tenth of the peak.
    * ``wsd``: linear warm-up, constant to 2/3 of the steps, then linear to a tenth of the peak.
    * ``constant``: linear warm-up, then the peak.

    Args:
        name: the shape.
        steps: optimizer steps of the whole run.
        warmup: steps of warm-up, at most ``steps`` (for ``wsd`` at most 2/3 of them).

    Raises:
        PretrainError: the warm-up does not fit.
    """
    stable_end = 2 * steps // 3
    if warmup > (stable_end if name == "wsd" else steps):
        raise PretrainError(
            f"--warmup-steps {warmup} does not fit {name} over {steps} steps; lower it"
        )
    if name == "cosine":
        return lambda optimizer: get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, warmup, steps, min_lr_rate=FINAL_SHARE
        )
    if name == "constant":
        return lambda optimizer: get_constant_schedule_with_warmup(optimizer, warmup)
    # transformers warms wsd up from its minimum rather than from zero: a gentle first step.
    return lambda optimizer: get_wsd_schedule(
        optimizer,
        num_warmup_steps=warmup,
        num_stable_steps=stable_end - warmup,
        num_decay_steps=steps - stable_end,
        warmup_type="linear",
        decay_type="linear",
        min_lr_ratio=FINAL_SHARE,
    )
