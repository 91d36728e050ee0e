"""Engines whose steps are held against the float64 reference on a GPU."""

from collections.abc import Iterator

from tests.distributed.cases import (
    EVERY_PARAMETER_PARTITIONED,
    EXCHANGE,
    MIXTURE,
    ON_CPU,
    PURE_BF16,
    Case,
)
from tests.distributed.recipes import RECIPES

PRECISIONS = ("fp32", "bf16", "fp16", "autocast")
OPTIMIZERS = [name for name in RECIPES if "by Newton-Schulz" not in name]


def _every() -> Iterator[Case]:
    for optimizer in OPTIMIZERS:
        for stage in (0, 1, 2, 3):
            zero = EVERY_PARAMETER_PARTITIONED if stage == 3 else {}
            for precision in PRECISIONS:
                yield Case(optimizer, stage, precision, 2, 0.05, zero=zero)
                if stage:
                    offload = {**zero, "offload_optimizer": ON_CPU}
                    yield Case(optimizer, stage, precision, 2, 0.05, zero=offload)


ONE_RANK = [*_every(), *PURE_BF16, *(case for case in MIXTURE if case.precision != "pure bf16")]
"""Every optimizer × stage × precision × offload; pure bf16, which has no offload; experts."""

TWO_RANKS = [
    *EXCHANGE,
    *(case for case in ONE_RANK if case.stage and case.optimizer in ("SWAN", "PolarGrad")),
]
"""What only cut matrices do, and every path of a slice."""

REHEARSED = [
    case
    for case in ONE_RANK
    if case.model == "dense" and case.optimizer == "SWAN" and case.stage in (0, 3)
]
"""Every precision, with and without offload. All of ``ONE_RANK`` pass on a CPU, in a minute."""
