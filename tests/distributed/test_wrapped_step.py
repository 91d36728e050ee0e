"""The step of an optimizer while DeepSpeed wraps it, and what depends on it afterwards.

Each function is one test of ``test_seam.py``.
"""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.utils import safe_get_full_grad
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gradopt_ds import GradPower, PolarGrad, matrix_param_groups
from tests.distributed.engines import (
    POLAR,
    SWAN_PARAMS,
    assert_same,
    config,
    start,
    train,
    weights,
)
from tests.distributed.harness import distributed
from tests.distributed.model import build_model, micro_batch
from tests.distributed.recipes import AUX

STAGES = (0, 1, 2, 3)
ONE_CYCLE = {
    "cycle_min_lr": 0.01,
    "cycle_max_lr": 0.1,
    "cycle_first_step_size": 2,
    "cycle_min_mom": 0.8,
    "cycle_max_mom": 0.9,
}


def polar(model: nn.Module) -> Optimizer:
    """PolarGrad as an object."""
    return PolarGrad(matrix_param_groups(model), **POLAR)  # type: ignore[arg-type]


def powered_adam(model: nn.Module) -> Optimizer:
    """An elementwise base behind a gradient power."""
    return GradPower(AdamW(model.parameters(), lr=0.01), 1.2)


def counted(optimizer: Optimizer) -> list[str]:
    """Patch the step as a user would, and say what was called."""
    calls: list[str] = []
    own = optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        calls.append("step")
        return own(*args, **kwargs)

    optimizer.step = step  # type: ignore[method-assign]
    return calls


@distributed(1, 2)
def test_a_patched_step_is_called() -> None:
    """Not while the wrapper is built, in every step afterwards; and nothing else changes."""
    for stage in STAGES:
        for build in (polar, powered_adam):
            model, twin = build_model(), build_model()
            optimizer = build(model)
            calls = counted(optimizer)
            patched = optimizer.step
            engine = start(config(None, stage=stage), model=model, optimizer=optimizer)
            assert not calls, f"stage {stage}: the wrapper took {len(calls)} steps"
            assert optimizer.step is patched
            train(engine, range(2))
            # Stages 1 to 3 step group by group.
            per_step = 1 if stage == 0 else len(optimizer.param_groups)
            assert len(calls) == 2 * per_step, (stage, len(calls))
            plain = start(config(None, stage=stage), model=twin, optimizer=build(twin))
            assert "step" not in vars(plain.basic_optimizer)
            train(plain, range(2))
            assert_same(weights(engine), weights(plain))


@distributed(1, 2)
def test_a_scheduler_made_before_does_not_warn() -> None:
    """It watches the step of the optimizer that it was made of."""
    for stage in STAGES:
        model = build_model()
        optimizer = polar(model)
        scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
        settings = config(None, stage=stage)
        engine = start(settings, model=model, optimizer=optimizer, lr_scheduler=scheduler)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*lr_scheduler.step")
            train(engine, range(2))
        lrs = {group["lr"] for group in engine.optimizer.param_groups}
        assert lrs == {POLAR["lr"] / 4}, lrs


@distributed(1, 2)
def test_a_failed_initialize_leaves_the_step() -> None:
    """Wherever it fails, the object steps as it did before."""

    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    unknown_scheduler = {"scheduler": {"type": "OneCycle", "params": {}}}
    for method, more in (("_configure_zero_optimizer", {}), ("", unknown_scheduler)):
        for is_patched in (False, True):
            model = build_model()
            optimizer = powered_adam(model)
            calls = counted(optimizer) if is_patched else []
            before = vars(optimizer).get("step")
            settings = config(None, **more)
            try:
                with patch.object(DeepSpeedEngine, method or "__doc__", fail):
                    start(settings, model=model, optimizer=optimizer)
            except (RuntimeError, TypeError):
                pass
            else:
                raise AssertionError("initialize should have failed")
            assert vars(optimizer).get("step") is before
            assert not calls
    refused = build_model()
    optimizer = polar(refused)
    cycle = {"type": "OneCycle", "params": ONE_CYCLE}
    _refused("PolarGrad", lambda: start(config(None, scheduler=cycle), model=refused,
                                        optimizer=optimizer))  # fmt: skip
    still = {name: param.detach().clone() for name, param in refused.named_parameters()}
    # By hand: the engine that failed has left its hooks in the model.
    for param in refused.parameters():
        param.grad = torch.ones_like(param).cumsum(0)
    optimizer.step()
    assert not any(torch.equal(still[n], p) for n, p in refused.named_parameters())


def _refused(name: str, action: Callable[[], object]) -> None:
    try:
        action()
    except NotImplementedError as error:
        assert name in str(error) and '"cycle_momentum": false' in str(error), error
    else:
        raise AssertionError(f"{name} should have been refused")


@distributed(1, 2)
def test_one_cycle_is_followed_or_refused() -> None:
    """AdamPower follows the betas; what has no betas for its groups says so before training."""
    cycle = {"type": "OneCycle", "params": ONE_CYCLE}
    for type_, params in (
        ("PolarGrad", POLAR),
        ("SWAN", SWAN_PARAMS),
        ("GradPower", {"base": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}}}),
    ):
        for stage in (0, 2):
            _refused(
                "GradPower" if type_ == "GradPower" else type_,
                lambda t=type_, p=params, s=stage: start(config(t, p, stage=s, scheduler=cycle)),
            )
    rates_alone = {"type": "OneCycle", "params": {**ONE_CYCLE, "cycle_momentum": False}}
    engine = start(config(scheduler=rates_alone))
    train(engine, range(1))
    assert {round(g["lr"], 9) for g in engine.optimizer.param_groups} == {0.055}
    for stage in STAGES:
        _follows_by_hand(start(config("AdamPower", {"lr": 0.5}, stage=stage, scheduler=cycle)))


def _follows_by_hand(engine: Any) -> None:
    """Half way up after one step, at the top after two: torch's AdamW with those settings."""
    twin = build_model()
    adamw = AdamW(twin.parameters(), betas=(0.8, 0.99), weight_decay=0.1)
    for step, (lr, beta) in enumerate([(0.01, 0.8), (0.055, 0.85), (0.1, 0.8)]):
        engine.backward(engine(micro_batch(step, 0, dist.get_rank())))
        for mine, peer in zip(engine.module.parameters(), twin.parameters(), strict=True):
            gradient = safe_get_full_grad(mine)
            peer.grad = gradient.sign() * gradient.abs() ** 1.2
        adamw.param_groups[0].update(lr=lr, betas=(beta, 0.99))
        adamw.step()
        engine.step()
    for name, weight in weights(engine).items():
        expected = twin.get_parameter(name)
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)


@distributed(1, 2)
def test_an_engine_s_optimizer_is_not_copied() -> None:
    """Its matrices lie on other ranks too; at stage 0 they do not, and it is."""
    for stage in STAGES:
        engine = start(config("PolarGradPower", POLAR, stage=stage))
        train(engine, range(1))
        for again in (copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))):
            try:
                twin = again(engine.basic_optimizer)
            except TypeError as error:
                assert stage > 0 and "engine.save_checkpoint" in str(error), error
            else:
                assert stage == 0
                _assert_equal_steps(engine.basic_optimizer, twin)


def _assert_equal_steps(optimizer: Optimizer, twin: Optimizer) -> None:
    pairs = [
        (mine, theirs)
        for groups in zip(optimizer.param_groups, twin.param_groups, strict=True)
        for mine, theirs in zip(*(group["params"] for group in groups), strict=True)
    ]
    for mine, theirs in pairs:
        mine.grad = torch.ones_like(mine).cumsum(0)
        theirs.grad = mine.grad.clone()
    optimizer.step()
    twin.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@distributed(1, 2)
def test_an_own_rate_of_the_embedding_is_meant() -> None:
    """AdamW's rate as given, also when DeepSpeed's scheduler writes one rate into all groups."""
    scheduler = {"type": "WarmupLR", "params": {"warmup_min_lr": 0.0, "warmup_max_lr": POLAR["lr"],
                 "warmup_num_steps": 2, "warmup_type": "linear"}}  # fmt: skip
    for more in ({}, {"scheduler": scheduler}):
        model = build_model()
        embedding = model.embed.weight
        rest = [param for param in model.parameters() if param is not embedding]
        groups = [{"params": [embedding], "lr": 1e-4}, {"params": rest}]
        copied = nn.Parameter(embedding.detach().clone())
        settings = config(stage=1, **more)
        engine = start(settings, model=model, model_parameters=groups)
        adamw = AdamW([copied], **{**AUX, "betas": (0.9, 0.99)})  # type: ignore[arg-type]
        for step in range(3):
            engine.backward(engine(micro_batch(step, 0, dist.get_rank())))
            copied.grad = safe_get_full_grad(embedding).clone()
            share = engine.optimizer.param_groups[0]["lr"] / POLAR["lr"]
            assert step < 2 or share > 0.4
            adamw.param_groups[0]["lr"] = 1e-4 * share
            adamw.step()
            engine.step()
        actual: Tensor = weights(engine)["embed.weight"]
        torch.testing.assert_close(actual, copied.detach(), rtol=1e-5, atol=1e-8)
