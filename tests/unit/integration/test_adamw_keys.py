"""The optimizer block of transformers' documentation, with another ``type``."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from gradopt_ds import MatrixOptimizer, register_optimizer
from gradopt_ds.integration import registry
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.registry import OPTIMIZERS
from gradopt_ds.memory.optimizers import build as build_for_memory
from gradopt_ds.optim import AuxAdamW, base_of
from tests.distributed.model import build_model
from tests.unit.integration.test_register_optimizer import Frobenius

FILLED = {"lr": 3e-4, "betas": [0.8, 0.97], "eps": 1e-6, "weight_decay": 0.25}
"""What transformers has put in the place of four times "auto"."""

BASES = {"GradPower": {"base": {"type": "AdamW"}}}


def build(name: str, params: dict[str, Any], model: nn.Module | None = None) -> Optimizer:
    model = model or build_model()
    return build_optimizer(name, params, model, list(model.parameters()))


def gradients(model: nn.Module) -> None:
    """Give every parameter one, the same in each call."""
    generator = torch.Generator().manual_seed(0)
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


def settings(optimizer: Optimizer, rule: str) -> set[tuple[Any, ...]]:
    """AdamW's settings of the groups with a rule."""
    return {
        (tuple(group["betas"]), group["eps"], group["weight_decay"])
        for group in optimizer.param_groups
        if group.get("rule") == rule
    }


@pytest.mark.parametrize("name", [*OPTIMIZERS, "GradPower"])
def test_only_the_type_is_changed(name: str) -> None:
    """Every name takes the four keys, and every parameter moves."""
    model = build_model()
    optimizer = build(name, {**FILLED, **BASES.get(name, {})}, model)
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}
    before = [param.detach().clone() for param in model.parameters()]
    gradients(model)
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    if isinstance(base_of(optimizer), MatrixOptimizer):
        assert settings(optimizer, "aux") == {((0.8, 0.97), 1e-6, 0.0)}
        matrices = [g for g in optimizer.param_groups if g["rule"] == "matrix"]
        assert {group["weight_decay"] for group in matrices} == {0.25}
    else:
        (group,) = optimizer.param_groups
        assert (tuple(group["betas"]), group["eps"], group["weight_decay"]) == (
            (0.8, 0.97), 1e-6, 0.25,
        )  # fmt: skip


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_embedding_steps_as_in_torch_adamw(wrapped: bool) -> None:
    """The truth is a torch.optim.AdamW over what is no matrix."""
    params = {**FILLED, "aux": {"lr": 3e-4, "weight_decay": 0.5}}
    name, json = ("GradPower", {"power": 1.0, "base": {"type": "SWAN", "params": params}})
    if not wrapped:
        name, json = "SWAN", params
    model, twin = build_model(), build_model()
    optimizer = build(name, json, model)
    aux = {id(p) for g in optimizer.param_groups if g["rule"] == "aux" for p in g["params"]}
    own = [q for p, q in zip(model.parameters(), twin.parameters(), strict=True) if id(p) in aux]
    reference = AdamW(own, lr=3e-4, betas=(0.8, 0.97), eps=1e-6, weight_decay=0.5)
    for _ in range(3):
        gradients(model)
        gradients(twin)
        optimizer.step()
        reference.step()
    moved: list[Tensor] = [param for param in model.parameters() if id(param) in aux]
    for param, expected in zip(moved, own, strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-6, atol=1e-7)


def test_what_aux_says_comes_first() -> None:
    optimizer = build("SWAN", {**FILLED, "aux": {"betas": [0.5, 0.6], "weight_decay": 0.1}})
    assert settings(optimizer, "aux") == {((0.5, 0.6), 1e-6, 0.1)}
    optimizer = build("SWAN", {**FILLED, "aux": AuxAdamW(eps=1e-3)})
    assert settings(optimizer, "aux") == {((0.8, 0.97), 1e-3, 0.0)}


def test_the_auxiliary_rate_can_follow_lr() -> None:
    """With "lr": "auto" nobody can write the same number under ``aux``."""
    for params, scale in (({"lr": 3e-4}, 1.0), ({}, 0.5)):
        optimizer = build("SWAN", {**params, "aux": {"lr_scale": scale}})
        for group in optimizer.param_groups:
            if group["rule"] == "aux":
                assert group["lr_scale"] == pytest.approx(scale, rel=1e-12)


def test_grad_power_hands_on() -> None:
    """The four keys go to the base, whose own values come first."""
    base = {"type": "AdamW", "params": {"lr": 0.5, "eps": 1e-3}}
    (group,) = build("GradPower", {**FILLED, "base": base}).param_groups
    assert (group["lr"], group["eps"], group["betas"]) == (0.5, 1e-3, (0.8, 0.97))
    muon = build("GradPower", {**FILLED, "base": {"type": "Muon"}})
    assert settings(muon, "aux") == {((0.8, 0.97), 1e-6, 0.0)}
    (group,) = build("GradPower", {"lr": 0.5, "base": {"type": "SGD"}}).param_groups
    assert group["lr"] == 0.5
    with pytest.raises(ValueError, match="base SGD takes no 'betas'.*valid: .*momentum"):
        build("GradPower", {**FILLED, "base": {"type": "SGD"}})
    with pytest.raises(ValueError, match="GradPower: unknown key 'alpha'.*betas, eps, lr, power"):
        build("GradPower", {"alpha": 1.0, "base": {"type": "SWAN"}})


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("SWAN", {"lr": "auto"}, "SWAN: lr: got 'auto', which transformers' Trainer"),
        ("AdamPower", {"betas": "auto"}, "AdamPower: betas: got 'auto'.*lr and weight_decay"),
        ("SinkGD", {"alpha": "auto"}, "alpha: got 'auto', and nothing fills it"),
        ("SWAN", {"aux": {"lr": "auto"}}, "aux.lr: got 'auto'.*\"lr_scale\": 1.0"),
        ("SWAN", {"oracle": {"type": "auto"}}, "oracle.type: got 'auto'"),
        ("GradPower", {"eps": "auto", "base": {"type": "AdamW"}}, "GradPower: eps: got 'auto'"),
        ("GradPower", {"base": {"type": "SWAN", "params": {"lr": "auto"}}}, 'beside "base"'),
    ],
)
def test_an_auto_that_is_left_is_refused(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, params)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "GradPower of Adam", "GradPower of SWAN"])
@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        *(("lr", wrong) for wrong in (0, -1.0, "1e-3", None, [1e-3], float("nan"))),
        *(("betas", wrong) for wrong in (0.9, [0.9], [0.9, 1.0], ["0.9", 0.99], None)),
        *(("eps", wrong) for wrong in (0.0, -1e-8, "1e-8", None)),
        *(("weight_decay", wrong) for wrong in (-0.1, "0.1", None, [0.1])),
    ],
)
def test_wrong_values_are_refused_by_the_key_as_written(name: str, key: str, wrong: Any) -> None:
    name, _, base = name.partition(" of ")
    params = {**FILLED, **({"base": {"type": base}} if base else {}), key: wrong}
    with pytest.raises(ValueError, match=f"^{name}: {key}\\b"):
        build(name, params)


def test_an_optimizer_without_aux_has_no_use_for_betas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "OPTIMIZERS", dict(registry.OPTIMIZERS))
    monkeypatch.setattr("gradopt_ds.integration.optimizer_json.OPTIMIZERS", registry.OPTIMIZERS)
    register_optimizer("Frobenius", Frobenius)
    with pytest.raises(ValueError, match="Frobenius: unknown key 'betas'"):
        build("Frobenius", {"betas": [0.9, 0.99]})


def test_the_memory_estimate_reads_the_same_block() -> None:
    with torch.device("meta"):
        model = build_model()
    built = build_for_memory({"type": "SWAN", "params": FILLED}, model)
    assert settings(built.optimizer, "aux") == {((0.8, 0.97), 1e-6, 0.0)}
    with pytest.raises(ValueError, match="lr: got 'auto'"):
        build_for_memory({"type": "SWAN", "params": {"lr": "auto"}}, model)
