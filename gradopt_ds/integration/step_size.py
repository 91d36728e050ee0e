"""A learning rate copied from AdamW, with which the steps are much smaller or larger than its."""

import logging

from torch.optim import Optimizer

from gradopt_ds.integration.log import log_on_rank_0
from gradopt_ds.optim import MatrixOptimizer, base_of
from gradopt_ds.optim.param_groups import AUX
from gradopt_ds.optim.resumed_settings import BASE_LR
from gradopt_ds.optim.settings import ADAMW_STEP

FAR = 20
"""Times that a step must be smaller than its ``lr``, or an auxiliary rate larger, to be named."""

RATES_OF_MATRICES = 1e-3
"""The smallest default ``lr`` of the rules here; AdamW's fine-tuning rates lie below it."""


def warn_of_adamw_rate(optimizer: Optimizer) -> None:
    """Warn on rank 0 where an ``lr`` that can only be AdamW's makes steps of another size.

    Args:
        optimizer: before ZeRO flattens its parameters; only a matrix optimizer whose step size is
            known from its settings is judged.
    """
    base = base_of(optimizer)
    if not isinstance(base, MatrixOptimizer):
        return
    for message in adamw_rate_problems(base):
        text = "gradopt_ds: WARNING: %s; see docs/coming_from_adamw.md"
        log_on_rank_0(text, message, level=logging.WARNING)


def adamw_rate_problems(optimizer: MatrixOptimizer) -> list[str]:
    """Name what does not fit if ``lr`` is AdamW's: the matrices' step, the auxiliary rate."""
    lr, relative = _largest_step(optimizer)
    if lr >= RATES_OF_MATRICES or relative == 0:
        return []
    problems = []
    name = type(optimizer).__name__
    if relative <= 1 / FAR:
        problems.append(
            f"{name} with lr {lr:g} makes steps of root mean square {relative * lr:.2g} in "
            f'matrices, {1 / relative:.3g} times smaller than lr; "alpha": {ADAMW_STEP} (SWAN, '
            f'SinkGD) or "scale": "rms" (PolarGrad, Muon) gives it the steps of AdamW, '
            f"{ADAMW_STEP * lr:.2g}"
        )
    scales = [group["lr_scale"] for group in optimizer.param_groups if group["rule"] == AUX]
    if scales and max(scales) >= FAR:
        problems.append(
            f"the auxiliary AdamW of {name} has the learning rate {max(scales) * lr:.2g}, "
            f'{max(scales):.3g} times lr; if lr is AdamW\'s, write "aux": {{"lr_scale": 1.0}} in '
            "the JSON, or its number as aux.lr"
        )
    return problems


def _largest_step(optimizer: MatrixOptimizer) -> tuple[float, float]:
    """``lr`` and relative step of the matrices with the largest; zeros if it is not known."""
    largest = (0.0, 0.0)
    for group in optimizer.param_groups:
        for param in group["params"]:
            for block in optimizer.blocks.get(param, ()):
                for rows, columns in block.shapes:
                    relative = optimizer.relative_step(rows, columns, group)
                    if relative is None:
                        return 0.0, 0.0
                    largest = max(largest, (group[BASE_LR], relative))
    return largest
