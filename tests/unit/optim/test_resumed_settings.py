"""A state meets other settings than it was saved with: nothing changes without a word."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from gradopt_ds import SWAN, GradPower, Muon, PolarGrad, SinkGD, matrix_param_groups
from gradopt_ds.optim.resumed_settings import use_configured

POLAR: dict[str, Any] = {"lr": 0.1, "momentum": 0.8, "oracle": "svd"}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What the library has logged since the last call."""

    def read() -> str:
        text = caplog.text
        caplog.clear()
        return text

    return read


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False))


def polar(**settings: Any) -> PolarGrad:
    return PolarGrad(matrix_param_groups(model()), **{**POLAR, **settings})


def stepped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    generator = torch.Generator().manual_seed(1)
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.randn(param.shape, generator=generator)
    optimizer.step()
    return optimizer


def resumed(saved: torch.optim.Optimizer, onto: Any) -> Any:
    onto.load_state_dict(stepped(saved).state_dict())
    return onto


def test_the_same_settings_are_not_worth_a_word(said: Callable[[], str]) -> None:
    for make in (
        polar,
        lambda: SWAN(matrix_param_groups(model())),
        lambda: SinkGD(matrix_param_groups(model())),
        lambda: GradPower(polar(), 1.2),
        lambda: GradPower(torch.optim.AdamW(model().parameters(), betas=(0.9, 0.95)), 1.2),
        lambda: GradPower(torch.optim.SGD(model().parameters(), momentum=0.9), 1.2),
    ):
        resumed(make(), make())
    assert said() == ""


@pytest.mark.parametrize(
    ("setting", "then", "now"),
    [
        ("lr", 0.1, 0.2),
        ("momentum", 0.8, 0.9),
        ("weight_decay", 0.0, 0.1),
        ("nuclear_exponent", 0.5, 1.0),
        ("scale", "nuclear", "rms"),
    ],
)
def test_saved_numbers_go_on_and_it_is_said(
    said: Callable[[], str], setting: str, then: Any, now: Any
) -> None:
    optimizer = resumed(polar(**{setting: then}), polar(**{setting: now}))
    assert optimizer.param_groups[0][setting] == then
    assert f"{setting} goes on as {then!r} (saved; configured: {now!r})" in said()


def test_the_scale_that_goes_on_is_the_one_that_steps() -> None:
    """Against the definition in numpy: the nuclear norm of the saved rule, not "none"."""
    optimizer = resumed(polar(momentum=0), polar(momentum=0, scale="none"))
    weight = optimizer.param_groups[0]["params"][0]
    before, gradient = (x.detach().double().numpy() for x in (weight, torch.ones_like(weight)))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    gradient = weight.grad.double().numpy()
    before = before.copy()
    optimizer.step()
    u, s, vh = np.linalg.svd(gradient, full_matrices=False)
    expected = before - 0.1 * s.sum() * (u @ vh)
    np.testing.assert_allclose(weight.detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        (
            {"momentum_order": "momentum_first"},
            {"momentum_order": "polar_first"},
            "momentum_order 'momentum_first' in parameter group 0, .* with 'polar_first'",
        ),
        ({"nesterov": True}, {"nesterov": False}, "nesterov True .* configured with False"),
        ({"momentum": 0.8}, {"momentum": 0.0}, r"momentum 0\.8 .* configured with 0\.0"),
        ({"momentum": 0.0}, {"momentum": 0.8}, r"momentum 0\.0 .* configured with 0\.8"),
    ],
)
def test_what_gives_the_state_its_meaning_is_refused(then: dict, now: dict, message: str) -> None:
    optimizer, state = polar(**now), stepped(polar(**then)).state_dict()
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert not optimizer.state
    for key, value in now.items():
        assert optimizer.param_groups[0][key] == value


def test_another_rule_of_a_group_is_refused() -> None:
    groups = matrix_param_groups(model())
    saved = PolarGrad([{**group, "params": list(group["params"])} for group in groups], **POLAR)
    state = stepped(saved).state_dict()
    state["param_groups"][0]["rule"] = "aux"
    with pytest.raises(ValueError, match="rule 'aux' in parameter group 0, .* with 'matrix'"):
        polar().load_state_dict(state)


def test_how_a_step_is_computed_comes_from_the_config(said: Callable[[], str]) -> None:
    saved = polar(oracle={"type": "newton_schulz", "steps": 6})
    optimizer = resumed(saved, polar(oracle="svd", stochastic_rounding=True))
    for group in optimizer.param_groups:
        assert group["stochastic_rounding"] is True
    assert optimizer.param_groups[0]["oracle"]["type"] == "svd" == optimizer.oracle.name
    text = said()
    assert "stochastic_rounding is True as configured (saved: False)" in text
    assert "oracle is {'type': 'svd'" in text
    assert "'steps': 6" in text


def test_stochastic_rounding_takes_effect_when_resuming() -> None:
    """A step of 1/4096 of a bfloat16 weight is lost to nearest, and is not with it."""

    def make(rounded: bool) -> PolarGrad:
        weight = nn.Linear(32, 32, bias=False, dtype=torch.bfloat16)
        with torch.no_grad():
            weight.weight.fill_(1.0)
        params = matrix_param_groups(weight, include=["weight"])
        return PolarGrad(
            params,
            lr=2**-12,
            momentum=0,
            scale="none",
            oracle="svd",
            stochastic_rounding=rounded,
        )

    optimizer = make(True)
    optimizer.load_state_dict(make(False).state_dict())
    weight = optimizer.param_groups[0]["params"][0]
    weight.grad = torch.eye(32, dtype=torch.bfloat16)
    for _ in range(16):
        optimizer.step()
    assert (weight.diagonal() < 1).any()


def scheduled(optimizer: Any) -> Any:
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    stepped(optimizer)
    scheduler.step()
    return optimizer


@pytest.mark.parametrize("power", [None, 1.2])
def test_a_schedule_is_no_difference_but_another_lr_is(
    said: Callable[[], str], power: float | None
) -> None:
    def make(lr: float) -> Any:
        if power is None:
            return polar(lr=lr)
        return GradPower(torch.optim.AdamW(model().parameters(), lr=lr), power)

    state = scheduled(make(0.1)).state_dict()
    assert state["param_groups"][0]["lr"] == 0.05
    same = make(0.1)
    LambdaLR(same, lambda step: (1 + step) / 10)
    same.load_state_dict(state)
    assert same.param_groups[0]["lr"] == 0.05
    assert said() == ""
    make(0.2).load_state_dict(state)
    assert "lr goes on as 0.1 (saved; configured: 0.2)" in said()


def test_a_chain_of_resumed_runs_still_compares_with_what_goes_on(said: Callable[[], str]) -> None:
    second = resumed(polar(momentum=0.8), polar(momentum=0.9))
    said()
    third = polar(momentum=0.9)
    third.load_state_dict(second.state_dict())
    assert "momentum goes on as 0.8 (saved; configured: 0.9)" in said()


def test_a_state_of_an_earlier_version_is_filled_up_and_it_is_said(
    said: Callable[[], str],
) -> None:
    state = stepped(polar()).state_dict()
    for group in state["param_groups"]:
        for key in ("momentum_order", "nesterov", "scale", "oracle", "base_lr"):
            group.pop(key, None)
    optimizer = polar(scale="rms")
    optimizer.load_state_dict(state)
    assert "scale is 'rms' as configured (the saved state does not say)" in said()
    stepped(optimizer)


def test_another_power_and_other_betas_are_said(said: Callable[[], str]) -> None:
    def powered(power: float, betas: tuple[float, float]) -> GradPower:
        return GradPower(torch.optim.AdamW(model().parameters(), betas=betas), power)

    optimizer = resumed(powered(1.2, (0.9, 0.95)), powered(1.5, (0.9, 0.99)))
    assert optimizer.param_groups[0]["power"] == 1.2
    text = said()
    assert "power goes on as 1.2 (saved; configured: 1.5)" in text
    assert "betas goes on as [0.9, 0.95] (saved; configured: [0.9, 0.99])" in text
    matrices = resumed(GradPower(polar(), 1.2), GradPower(polar(), 1.5))
    assert matrices.param_groups[0]["power"] == 1.2
    assert said().count("power goes on as 1.2 (saved; configured: 1.5)") == 2  # two groups


def test_the_configured_settings_can_be_taken() -> None:
    optimizer = resumed(polar(scale="nuclear"), polar(lr=0.3, momentum=0.9, scale="rms"))
    changes = use_configured(optimizer, lr_is_scheduled=False)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["scale"]) == (0.3, 0.9, "rms")
    assert "group 0: momentum 0.9 from now on (0.8 before)" in changes
    assert optimizer.param_groups[1]["lr"] == 0.3
    third = polar(lr=0.3, momentum=0.9, scale="rms")
    third.load_state_dict(optimizer.state_dict())
    assert use_configured(third, lr_is_scheduled=False) == []


def test_a_scheduled_lr_is_left_to_the_scheduler() -> None:
    optimizer = resumed(polar(), polar(lr=0.3, momentum=0.9))
    changes = use_configured(optimizer, lr_is_scheduled=True)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["momentum"] == 0.9
    assert (
        "group 0: lr is left to the scheduler (the saved group began from 0.1, configured: 0.3)"
        in (change.split(";")[0] for change in changes)
    )


def test_lr_is_put_back_from_where_a_schedule_has_left_it() -> None:
    saved = polar()
    for group in saved.param_groups:
        group["lr"] = 0.01
    optimizer = resumed(saved, polar())
    assert use_configured(optimizer, lr_is_scheduled=True) == []
    assert use_configured(optimizer, lr_is_scheduled=False)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


def test_settings_are_plain_data() -> None:
    for optimizer in (
        polar(oracle={"type": "gram_newton_schulz", "dtype": "float32", "restarts": [1, 3]}),
        Muon(matrix_param_groups(model())),
        SinkGD(matrix_param_groups(model()), iterations=7),
    ):
        for group in optimizer.state_dict()["param_groups"]:
            for key in ("oracle", "momentum_order", "scale", "nesterov"):
                _assert_plain(group.get(key))


def _assert_plain(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _assert_plain(item)
    else:
        assert value is None or type(value) in (bool, int, float, str), value


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"momentum_order": "polar_firts"}, "momentum_order must be one of"),
        ({"scale": "nucular"}, "scale must be one of"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs momentum > 0"),
        ({"oracle": "eigh"}, "one oracle computes all groups"),
    ],
)
def test_a_groups_own_settings_are_checked(own: dict, message: str) -> None:
    groups = matrix_param_groups(model())
    with pytest.raises(ValueError, match=message):
        PolarGrad([{**group, **own} for group in groups], **POLAR)
