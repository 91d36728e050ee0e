"""ZeRO++ hpZ: the backward pass gathers weights from a second copy, cut over fewer ranks."""

from dataclasses import replace

from deepspeed.utils import groups

from tests.distributed.cases import EVERY_PARAMETER_PARTITIONED, ON_CPU, Case
from tests.distributed.harness import distributed, record
from tests.distributed.test_exactness import worst_errors

HPZ = {**EVERY_PARAMETER_PARTITIONED, "zero_hpz_partition_size": 2}
CASES = [
    Case("SWAN", 3, "fp32", 2, 0.05, zero=HPZ),
    Case("PolarGrad", 3, "bf16", 2, 0.05, zero=HPZ, zero_init=True),
]


@distributed(2, 4, cases={
    2: [*CASES, replace(CASES[0], zero={**HPZ, "offload_optimizer": ON_CPU})], 4: CASES,
})  # fmt: skip
def test_step_equals_the_reference(case: Case) -> None:
    """The second copy follows the weights: a stale one would give gradients of old weights."""
    try:
        worst = worst_errors(case)
    finally:
        # DeepSpeed makes this group once per process, and asserts that it is the first time.
        groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
    record(**worst)
    assert max(worst.values()) <= 1e-4
