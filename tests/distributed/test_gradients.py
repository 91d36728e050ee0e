"""Gradients that are missing or no numbers; each function is one test of ``test_gradients.py``."""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
import torch.distributed as dist

from tests.distributed.conditional_model import CONDITIONAL, build_conditional
from tests.distributed.engines import (
    POLAR,
    SWAN_PARAMS,
    assert_same,
    config,
    matrix_optimizer,
    start,
    train,
    weights,
)
from tests.distributed.harness import distributed
from tests.distributed.model import micro_batch
from tests.distributed.recipes import AUX

BF16: dict[str, Any] = {"bf16": {"enabled": True}}
FP16: dict[str, Any] = {"fp16": {"enabled": True, "initial_scale_power": 8, "hysteresis": 1}}
UNCHECKED: dict[str, Any] = {"bf16": {"enabled": True, "check_grad_overflow": False}}
IN_FP32: dict[str, Any] = {"data_types": {"grad_accum_dtype": "fp32"}}
OFFLOAD: dict[str, Any] = {"zero": {"offload_optimizer": {"device": "cpu"}}}
SINKGD = {"lr": 0.2, "alpha": 0.1, "aux": AUX}


@distributed(2, 3)
def test_unused_matrices_stay_to_the_bit() -> None:
    """Step 1 does not use the branch and the experts, of which step 0 has left gradients."""
    rules = (("SWAN", SWAN_PARAMS), ("SinkGD", SINKGD))
    places: tuple[tuple[int, dict[str, Any]], ...] = (
        *((stage, {}) for stage in (0, 1, 2, 3)),
        *((stage, OFFLOAD) for stage in (1, 2, 3)),
    )
    for (name, params), (stage, where) in product(rules, places):
        engine = start(config(name, params, stage=stage, **where), model=build_conditional())
        train(engine, range(1))
        before = weights(engine)
        train(engine, range(1, 2))
        moved = {key for key, now in weights(engine).items() if not torch.equal(now, before[key])}
        assert not moved & CONDITIONAL, (name, stage, where, moved & CONDITIONAL)
        assert "blocks.0.square.weight" in moved
        engine.destroy()


@distributed(2, 3)
def test_infinities_of_an_unused_layer_stop_nobody() -> None:
    """What made DeepSpeed skip step 0 is gone in step 1, which does not reach that layer."""
    for stage, extra in (*product((0, 1, 2, 3), (BF16, FP16)), (2, OFFLOAD), (3, OFFLOAD), (3, {})):
        engine = start(config(stage=stage, **extra), model=build_conditional())
        loss = engine(micro_batch(0, 0, dist.get_rank()))
        engine.backward(loss * (float("inf") if dist.get_rank() == 0 else 1.0))
        engine.step()
        assert not engine.was_step_applied(), (stage, extra)
        train(engine, range(1, 2))
        assert engine.was_step_applied(), (stage, extra)
        assert all(weight.isfinite().all() for weight in weights(engine).values())
        engine.destroy()


@distributed(2)
def test_zero_grad_discards_what_was_accumulated() -> None:
    """A pass through all layers is discarded; those that follow do not reach all of them."""
    accumulating = {"gradient_accumulation_steps": 2}
    for stage, extra in (
        *product((0, 1, 2, 3), ({}, accumulating)),
        *product((1, 2, 3), (OFFLOAD, {**OFFLOAD, **accumulating})),
        (2, {**BF16, **IN_FP32, **accumulating}),
    ):
        weights_after = []
        for is_discarding in (False, True):
            settings = config("SWAN", SWAN_PARAMS, stage=stage, **extra)
            engine = start(settings, model=build_conditional())
            if is_discarding:
                engine.backward(engine(micro_batch(0, 0, dist.get_rank())))
                engine.optimizer.zero_grad()
            train(engine, range(1, 2))
            weights_after.append(weights(engine))
            engine.destroy()
        assert_same(*weights_after)


@dataclass(frozen=True)
class NanRow:
    """A row of the table in docs/zero.md: what a NaN in the gradient of one rank does.

    Attributes:
        extra: the JSON's keys.
        skipped: stages at which no rank steps.
        kept: stages at which the NaN gets into weights and momentum, and stays.
    """

    extra: dict[str, Any]
    skipped: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()


NAN_TABLE = (
    NanRow({}, skipped=(1, 2, 3), kept=(0,)),
    NanRow(FP16, skipped=(0, 1, 2, 3)),
    NanRow(BF16, skipped=(0, 1, 2, 3)),
    NanRow({**BF16, **IN_FP32}, skipped=(1, 2, 3)),
    NanRow(UNCHECKED, skipped=(0, 3), kept=(1, 2)),
    NanRow({**UNCHECKED, **IN_FP32}, skipped=(1, 3), kept=(2,)),
    NanRow({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, (1, 2, 3), kept=(0,)),
    NanRow(
        {"bf16": {
            "enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True
        }},
        skipped=(1, 2, 3),
    ),
    NanRow(OFFLOAD, skipped=(1, 2, 3)),
    NanRow({**BF16, **OFFLOAD}, skipped=(1, 2, 3)),
    NanRow({"zero": {"compute_grad_norm": False}}, kept=(1, 2)),
)  # fmt: skip


@distributed(2, 3)
def test_nan_gradients_do_what_the_table_says() -> None:
    """No rank hangs; a skipped step moves nothing; otherwise the NaN reaches the oracle."""
    for row in NAN_TABLE:
        for stage in (*row.skipped, *row.kept):
            _nan_in_one_step(stage, row)


def _nan_in_one_step(stage: int, row: NanRow) -> None:
    what = (stage, row.extra)
    engine = start(config(params={**POLAR, "exchange_bucket_size": 1}, stage=stage, **row.extra))
    train(engine, range(1))
    before, seen = weights(engine), _NanCounter()
    seen.watch(engine)
    loss = engine(micro_batch(1, 0, dist.get_rank()))
    engine.backward(loss * (float("nan") if dist.get_rank() == 0 else 1.0))
    engine.step()
    is_kept = stage in row.kept
    assert engine.was_step_applied() == is_kept, what
    if not is_kept:
        assert_same(before, weights(engine))
    train(engine, range(2, 3))
    after = weights(engine)
    assert all(bool(weight.isnan().any()) == is_kept for weight in after.values()), what
    assert bool(seen.matrices) == is_kept, what
    engine.destroy()


@distributed(2)
def test_autocast_in_float16_skips_infinities_at_stage_0() -> None:
    """No weight moves, and torch's scaler halves the scale; the engine counts a step anyway."""
    engine = start(config(torch_autocast={"enabled": True, "dtype": "float16"}, stage=0))
    train(engine, range(1))
    before, scale = weights(engine), engine.torch_autocast_z0_gradscaler.get_scale()
    loss = engine(micro_batch(1, 0, dist.get_rank()))
    engine.backward(loss * (float("inf") if dist.get_rank() == 0 else 1.0))
    engine.step()
    assert_same(before, weights(engine))
    assert engine.torch_autocast_z0_gradscaler.get_scale() == scale / 2
    train(engine, range(2, 3))
    after = weights(engine)
    assert all(weight.isfinite().all() for weight in after.values())
    assert not torch.equal(before["blocks.0.up.weight"], after["blocks.0.up.weight"])


@dataclass
class _NanCounter:
    """How many matrices with NaN all ranks' oracles have been given."""

    matrices: int = field(default=0)

    def watch(self, engine: Any) -> None:
        optimizer = matrix_optimizer(engine)
        rule = optimizer._matrix_rule

        def counting(matrices: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.matrices += int(matrices.isnan().flatten(1).any(1).sum())
            return rule(matrices, *args, **kwargs)

        optimizer._matrix_rule = counting  # type: ignore[method-assign]
