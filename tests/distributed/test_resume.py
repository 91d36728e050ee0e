"""Save, build anew from other weights, load, go on: as if the run had never been broken."""

from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from tests.distributed import engines
from tests.distributed.cases import BF16_ACCUMULATING_IN_FP32
from tests.distributed.checkpoint_cases import CASES, SKIPPED, ZERO_TO_FP32, Case
from tests.distributed.checkpoint_engines import (
    END,
    HALF,
    assert_equal,
    own_folder,
    start,
    train,
    weights,
    whole_state,
)
from tests.distributed.engines import BF16, POLAR, SWAN_PARAMS, Setting, assert_raises
from tests.distributed.harness import distributed
from tests.distributed.model import build_model

SETTINGS = [
    *(
        Setting(name, stage, params)
        for stage in (0, 1, 2)
        for name, params in (("SWAN", SWAN_PARAMS), ("PolarGrad", POLAR), ("MuonPower", {}))
    ),
    Setting("PolarGrad", 1, POLAR, {**BF16, **BF16_ACCUMULATING_IN_FP32}),
    Setting("SWAN", 2, SWAN_PARAMS, BF16),
    Setting("PolarGrad", 0, POLAR, BF16),
    Setting("AdamPower", 2, {}),
]
"""Without clipping, and with default settings of MuonPower and AdamPower."""


@distributed(2, 3, cases=CASES)
def test_a_resume_is_bit_equal(case: Case) -> None:
    """At every stage, in every precision, with the options that move slices."""
    _resume_is_bit_equal(case)


@distributed(2, 3, cases=SKIPPED)
def test_a_resume_after_a_skipped_step_is_bit_equal(case: Case) -> None:
    """The loss scale and its history are part of the checkpoint."""
    _resume_is_bit_equal(case, overflow_at=HALF - 1)


def _resume_is_bit_equal(case: Case, overflow_at: int | None = None) -> None:
    """Save, build anew from other weights, load, go on: the same bits as a run never broken."""
    unbroken = start(case)
    train(unbroken, range(HALF), overflow_at)
    path = own_folder(f"resume {case.name} {overflow_at}")
    unbroken.save_checkpoint(path, tag="half")
    train(unbroken, range(HALF, END))
    resumed = start(case, seed=7)
    resumed.load_checkpoint(path)
    train(resumed, range(HALF, END))
    assert_equal(weights(unbroken), weights(resumed), case.name)
    assert all(weight.isfinite().all() for weight in weights(resumed).values()), case.name
    assert_equal(unbroken.optimizer.state_dict(), resumed.optimizer.state_dict(), case.name)
    assert unbroken.skipped_steps == resumed.skipped_steps == (overflow_at is not None)
    unbroken.destroy()
    resumed.destroy()


@distributed(2, 3, cases=SETTINGS)
def test_a_resume_without_clipping_is_bit_equal(case: Setting) -> None:
    """Weights and state have the same bits as in a run that was never broken."""
    unbroken = engines.start(case.config())
    engines.train(unbroken, range(HALF))
    path = own_folder(f"without clipping {case.name}")
    unbroken.save_checkpoint(path, tag="half")
    engines.train(unbroken, range(HALF, END))
    resumed = engines.start(case.config(), model=build_model(seed=7))
    resumed.load_checkpoint(path)
    engines.train(resumed, range(HALF, END))
    engines.assert_same(engines.weights(unbroken), engines.weights(resumed))
    engines.assert_same(engines.state(unbroken), engines.state(resumed))


@distributed(2, 3, cases=ZERO_TO_FP32)
def test_zero_to_fp32_yields_the_masters(case: Case) -> None:
    """DeepSpeed's script understands the checkpoints of stages 1 to 3."""
    engine = start(case)
    train(engine, range(1))
    path = own_folder(f"zero_to_fp32 {case.name}")
    engine.save_checkpoint(path, tag="one")
    actual = get_fp32_state_dict_from_zero_checkpoint(path)
    masters = {
        name[: -len(".fp32")]: w
        for name, w in whole_state(engine).items()
        if name.endswith(".fp32")
    }
    expected = {**weights(engine), **masters}
    assert actual.keys() == expected.keys()
    assert_equal({name: actual[name] for name in expected}, expected, case.name)
    engine.destroy()


@distributed(2)
def test_bf16_optimizer_is_no_zero_checkpoint_to_zero_to_fp32() -> None:
    """The weights of this wrapper come out through the universal layout alone."""
    engine = start(Case("PolarGrad", 1, "bf16 over fp32"))
    path = own_folder("zero_to_fp32 refuses")
    engine.save_checkpoint(path, tag="one")
    assert_raises(
        Exception,
        "is not a zero checkpoint",
        lambda: get_fp32_state_dict_from_zero_checkpoint(path),
    )
