"""Sequence parallelism: ranks that share sequences compute what one process computes."""

import torch
import torch.distributed as dist
from torch import nn

from tests.distributed.cases import (
    BF16_ACCUMULATING_IN_FP32,
    EVERY_PARAMETER_PARTITIONED,
    ON_CPU,
    Case,
)
from tests.distributed.engines import (
    BF16,
    POLAR,
    Setting,
    assert_raises,
    assert_same,
    config,
    start,
    train,
    weights,
)
from tests.distributed.harness import distributed, folder, record
from tests.distributed.parallel_state import forget_engines
from tests.distributed.sequence_model import CutLlama, plain_unit, sequence_parallel
from tests.distributed.test_exactness import worst_errors

PART, GATHERED = "LLaMA", "LLaMA, loss gathered"
"""A rank returns its part of the loss, which DeepSpeed adds up at stages 0 to 2, or all of it,
which DeepSpeed averages at stage 3."""

STAGES = [
    *(Case("PolarGrad", stage, "fp32", 2, 0.05, model=PART) for stage in (0, 1, 2)),
    Case("PolarGrad", 3, "fp32", 2, 0.05, model=GATHERED, zero=EVERY_PARAMETER_PARTITIONED),
]
"""On two ranks that share sequences, and on two such pairs. PolarGrad's step is as long as the
gradient, so a wrong divisor or a wrong norm shows, which SWAN's would not."""

CASES = [
    *STAGES,
    Case("PolarGrad", 0, "bf16", 2, 0.05, model=PART),
    Case("PolarGrad", 0, "fp16", 2, 0.05, model=PART),
    Case("PolarGrad", 1, "autocast", 1, 0.05, model=PART),
    Case("SWAN", 2, "bf16", 2, 0.05, model=PART, zero={"reduce_scatter": False}),
    Case("PolarGrad", 3, "bf16", 2, 0.05, model=GATHERED, zero_init=True,
         zero={**EVERY_PARAMETER_PARTITIONED, "offload_optimizer": ON_CPU}),
]  # fmt: skip


@distributed(2, 4, cases={2: CASES, 4: STAGES})
def test_step_equals_one_process(case: Case) -> None:
    """With DeepSpeed's own unit, which Accelerate passes too."""
    _assert_exact(case, plain=False)


@distributed(2, 4, cases={2: STAGES[:1], 4: STAGES[2:3]})
def test_step_equals_one_process_with_a_plain_unit(case: Case) -> None:
    """With one like Megatron's, whose model-parallel groups hold one rank."""
    _assert_exact(case, plain=True)


def _assert_exact(case: Case, plain: bool) -> None:
    with sequence_parallel(2, plain) as mpu:
        worst = worst_errors(case, mpu)
    record(**worst)
    assert max(worst.values()) <= 1e-4


@distributed(2, cases=[Setting(stage=stage, params=POLAR) for stage in (0, 2, 3)])
def test_a_resume_is_bit_equal(case: Setting) -> None:
    """The slices of sequence ranks are saved, and found again."""
    path = str(folder(f"sequence {case.name}"))
    with sequence_parallel(2) as mpu:
        unbroken = start(case.config(), model=_model(), mpu=mpu)
        train(unbroken, range(2))
        unbroken.save_checkpoint(path, tag="half")
        train(unbroken, range(2, 4))
        resumed = start(case.config(), model=_model(std=0.2), mpu=mpu)
        resumed.load_checkpoint(path)
        train(resumed, range(2, 4))
        assert_same(weights(unbroken), weights(resumed))


@distributed(2)
def test_what_deepspeed_gets_wrong_is_refused() -> None:
    """Groups from the JSON, the wrapper that fails, gradients of two scales, model parallelism."""
    in_json = config(sequence_parallel_size=2)
    mesh = config(sequence_parallel_size=2, data_parallel_size=1)
    for settings in (in_json, mesh):
        assert_raises(
            NotImplementedError, "pass deepspeed.initialize the mpu", lambda: start(settings)
        )
        forget_engines()
    no_scatter = config(stage=3, zero={"reduce_scatter": False})
    with sequence_parallel(2) as mpu:
        for settings, message in (
            (config(stage=1, **BF16, **BF16_ACCUMULATING_IN_FP32), "BF16_Optimizer ends in an"),
            (no_scatter, "larger than a bucket"),
            (config(sequence_parallel_size=1 + dist.get_world_size()), "of the same size"),
        ):
            assert_raises(
                NotImplementedError, message, lambda: start(settings, model=_model(), mpu=mpu)
            )
        unit = plain_unit(dist.new_group([dist.get_rank()], use_local_synchronization=True))
        unit.get_model_parallel_world_size = lambda: 2
        assert_raises(
            NotImplementedError,
            "tensor parallelism with sequence parallelism",
            lambda: start(config(), model=_model(), mpu=unit),
        )
        unit.get_model_parallel_world_size = lambda: 1
        assert_raises(
            NotImplementedError,
            "reduces gradients over that group alone",
            lambda: start(config(stage=3), model=_model(), mpu=unit),
        )


@distributed(2)
def test_the_json_may_name_the_size_of_the_unit() -> None:
    """As ``zero.Init`` wants it, which is passed no unit."""
    with sequence_parallel(2) as mpu:
        engine = start(config(sequence_parallel_size=2), model=_model(), mpu=mpu)
        train(engine, range(1))


def _model(std: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    model = CutLlama()
    for param in model.parameters():
        nn.init.normal_(param, std=std)
    return model
