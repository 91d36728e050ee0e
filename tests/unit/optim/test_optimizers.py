"""The optimizers in a plain PyTorch script, against the float64 reference and torch's own."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from gradopt_ds import SWAN, GradPower, Muon, PolarGrad, SinkGD, matrix_param_groups
from tests.distributed.model import MATRICES, TinyLM, build_model, micro_batch
from tests.reference import Reference, Rule

AUX = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
AUX_RULE = Rule("AdamW", lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
Build = Callable[[nn.Module], Optimizer]


def swan(model: nn.Module, **settings: Any) -> SWAN:
    """SWAN with the exact oracle."""
    return SWAN(matrix_param_groups(model), **{"oracle": "svd", "aux": AUX, **settings})


def polar(model: nn.Module, **settings: Any) -> PolarGrad:
    """PolarGrad with the exact oracle."""
    return PolarGrad(matrix_param_groups(model), **{"oracle": "svd", "aux": AUX, **settings})


def sinkgd(model: nn.Module, **settings: Any) -> SinkGD:
    """SinkGD, whose rule is exact."""
    return SinkGD(matrix_param_groups(model), **{"aux": AUX, **settings})


POLAR = {"lr": 0.5, "momentum": 0.8}
VARIANTS: list[tuple[Build, Rule]] = [
    (lambda m: swan(m, lr=0.5, alpha=0.1, weight_decay=0.2), Rule("SWAN", 0.5, 1, 0.2, alpha=0.1)),
    (
        lambda m: sinkgd(m, lr=0.5, alpha=0.1, weight_decay=0.2),
        Rule("SinkGD", 0.5, 1, 0.2, alpha=0.1),
    ),
    (lambda m: sinkgd(m, lr=0.5, iterations=2), Rule("SinkGD", 0.5, iterations=2)),
    (lambda m: polar(m, **POLAR), Rule("PolarGrad", **POLAR)),
    (lambda m: polar(m, **POLAR, nesterov=True), Rule("PolarGrad", **POLAR, nesterov=True)),
    (
        lambda m: polar(m, **POLAR, momentum_order="polar_first", weight_decay=0.1),
        Rule("PolarGrad", **POLAR, momentum_order="polar_first", weight_decay=0.1),
    ),
    (lambda m: polar(m, lr=0.5, momentum=0.0), Rule("PolarGrad", 0.5, momentum=0.0)),
    (
        lambda m: polar(m, **POLAR, nuclear_exponent=0.5),
        Rule("PolarGrad", **POLAR, nuclear_exponent=0.5),
    ),
    *(
        (
            lambda m, scale=scale: Muon(
                matrix_param_groups(m), **POLAR, scale=scale, oracle="svd", aux=AUX
            ),
            Rule("PolarGrad", **POLAR, scale=scale, nesterov=True),
        )
        for scale in ("none", "spectral", "rms")
    ),
]


def gradients(model: nn.Module, step: int) -> None:
    """Leave the gradients of one batch in the model."""
    model.zero_grad()
    model(micro_batch(step, 0, 0)).backward()


@pytest.mark.parametrize(("build", "rule"), VARIANTS)
@pytest.mark.parametrize("power", [1.0, 1.2])
def test_against_the_reference(build: Build, rule: Rule, power: float) -> None:
    """Three steps of every variant, with and without a gradient power, in float64."""
    model = build_model().double()
    optimizer = build(model)
    optimizer = optimizer if power == 1.0 else GradPower(optimizer, power)
    references = {
        name: Reference(
            Rule(**{**vars(rule if name in MATRICES else AUX_RULE), "power": power}),
            param.detach().numpy(),
        )
        for name, param in model.named_parameters()
    }
    for step in range(3):
        gradients(model, step)
        for name, param in model.named_parameters():
            assert param.grad is not None
            references[name].step(param.grad.numpy())
        optimizer.step()
        for name, param in model.named_parameters():
            # Torch's AdamW rounds nothing here; the exact oracle cuts where the reference does.
            np.testing.assert_allclose(param.detach().numpy(), references[name].weight, rtol=1e-9)


def test_muon_equals_torch_muon() -> None:
    """The special case is the optimizer that torch ships."""
    mine = nn.Linear(24, 40, bias=False)
    theirs = copy.deepcopy(mine)
    group = {"params": list(mine.parameters()), "rule": "matrix"}
    oracle = {"type": "newton_schulz", "steps": 5, "dtype": "bfloat16"}
    ours = Muon([group], lr=0.1, momentum=0.9, nesterov=True, scale="spectral",
                weight_decay=0.1, oracle=oracle)  # fmt: skip
    peer = torch.optim.Muon(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(4):
        torch.manual_seed(step)
        gradient = torch.randn(40, 24)
        mine.weight.grad, theirs.weight.grad = gradient.clone(), gradient.clone()
        before = mine.weight.detach().clone()
        ours.step()
        peer.step()
        moved = (mine.weight - before).norm()
        # Both iterate in bfloat16, whose rounding alone makes 4 % of a step.
        assert (mine.weight - theirs.weight).norm() < 0.06 * (step + 1) * moved


def test_auxiliary_adamw_is_torchs() -> None:
    """Parameters that are no matrices move exactly as under torch.optim.AdamW."""
    model, twin = build_model(), build_model()
    ours = swan(model, lr=0.3)
    others = [p for n, p in twin.named_parameters() if n not in MATRICES]
    theirs = AdamW(others, **AUX)  # type: ignore[arg-type]
    for step in range(3):
        gradients(model, step)
        for mine, peer in zip(model.parameters(), twin.parameters(), strict=True):
            peer.grad = mine.grad.clone()  # type: ignore[union-attr]
        ours.step()
        theirs.step()
    for (name, mine), peer in zip(model.named_parameters(), twin.parameters(), strict=True):
        if name not in MATRICES:
            # Ours is fused where it can be, theirs is a loop; a step is 1e-3.
            torch.testing.assert_close(mine, peer, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("build", [swan, sinkgd])
def test_no_state_for_matrices(build: Any) -> None:
    """The memory claim: no tensor at all."""
    model = build_model()
    optimizer = build(model)
    gradients(model, 0)
    optimizer.step()
    stateful = {n for n, p in model.named_parameters() if optimizer.state.get(p)}
    assert stateful == {n for n, _ in model.named_parameters()} - MATRICES


def test_power_leaves_the_gradients_alone() -> None:
    """A caller that accumulates on must not meet a powered gradient."""
    model = build_model()
    gradients(model, 0)
    before = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    GradPower(SGD(model.parameters(), lr=0.1), power=1.5).step()
    for kept, param in zip(before, model.parameters(), strict=True):
        assert param.grad is not None and torch.equal(kept, param.grad)


@pytest.mark.parametrize("base", [SGD, AdamW, torch.optim.RMSprop])
def test_grad_power_of_torch_optimizers(base: type[Optimizer]) -> None:
    """The base, fed by hand with powered gradients, takes the same steps."""
    model, twin = build_model(), build_model()
    ours = GradPower(base(model.parameters(), lr=0.01), power=1.2)
    theirs = base(twin.parameters(), lr=0.01)
    for step in range(3):
        gradients(model, step)
        gradients(twin, step)
        for param in twin.parameters():
            assert param.grad is not None
            param.grad = param.grad.sign() * param.grad.abs() ** 1.2
        ours.step()
        theirs.step()
    for mine, peer in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, peer, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("build", [swan, sinkgd, polar])
def test_resume_equals_an_unbroken_run(build: Any, wrapped: bool) -> None:
    """state_dict and load_state_dict carry everything."""

    def make(model: nn.Module) -> Optimizer:
        optimizer: Optimizer = build(model, lr=0.1)
        return GradPower(optimizer, 1.2) if wrapped else optimizer

    model = build_model()
    optimizer = make(model)
    for step in range(4):
        if step == 2:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        gradients(model, step)
        optimizer.step()
    resumed = TinyLM()
    restored = make(resumed)
    resumed.load_state_dict(saved[0])
    restored.load_state_dict(saved[1])
    for step in range(2, 4):
        gradients(resumed, step)
        restored.step()
    for mine, peer in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, peer)


def test_state_of_another_optimizer_is_refused() -> None:
    """PolarGrad's momentum means nothing to SWAN; AdamW's moments nothing to AdamPower."""
    model = build_model()
    with pytest.raises(ValueError, match="saved by PolarGrad, not by SWAN"):
        swan(model).load_state_dict(polar(model).state_dict())
    with pytest.raises(ValueError, match="saved by another optimizer, not by SWAN"):
        swan(model).load_state_dict(AdamW(model.parameters()).state_dict())
    with pytest.raises(ValueError, match="without a gradient power"):
        adam = AdamW(model.parameters())
        GradPower(AdamW(model.parameters())).load_state_dict(adam.state_dict())
    with pytest.raises(ValueError, match="saved with gradients to the power 1.2"):
        swan(model).load_state_dict(GradPower(swan(model), 1.2).state_dict())


def test_schedulers_keep_the_ratio_of_the_learning_rates() -> None:
    """One lr written into every group, as DeepSpeed's schedulers do, and torch's own kind."""
    model = build_model()
    optimizer = polar(model, lr=0.2)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    twin = build_model()
    expected = polar(twin, lr=0.05, aux={**AUX, "lr": 0.01 * 0.25})
    gradients(model, 0)
    gradients(twin, 0)
    optimizer.step()
    expected.step()
    scheduler.step()
    for mine, peer in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, peer, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.0},
        {"lr": "0.1"},
        {"lr": float("nan")},
        {"momentum": 1.0},
        {"scale": "frobenius"},
        {"nuclear_exponent": 2.0},
        {"nuclear_exponent": 0.5, "scale": "rms"},
        {"nesterov": True, "momentum": 0.0},
        {"nesterov": True, "momentum_order": "polar_first"},
        {"oracle": "newton"},
        {"aux": {"learning_rate": 1e-3}},
        {"aux": {"betas": [0.9, 1.0]}},
        {"ns_steps": 5},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    """Wrong types, ranges, names, and settings that would have no effect."""
    with pytest.raises((ValueError, ValidationError)):
        PolarGrad(matrix_param_groups(build_model()), **settings)


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"iterations": 2.0}, {"oracle": "svd"}])
def test_bad_settings_of_sinkgd_are_refused(settings: dict[str, Any]) -> None:
    """It has a number of iterations and no oracle."""
    with pytest.raises((ValueError, ValidationError)):
        SinkGD(matrix_param_groups(build_model()), **settings)


@pytest.mark.parametrize("optimizer", [SWAN, SinkGD, PolarGrad, Muon])
def test_bare_parameters_are_refused(optimizer: Any) -> None:
    """Without the model nobody knows which tensors are embeddings."""
    with pytest.raises(ValueError, match="matrix_param_groups"):
        optimizer(build_model().parameters())


def test_a_flat_slice_without_a_layout_is_refused() -> None:
    """What DeepSpeed would hand over if the integration were not there."""
    flat = nn.Parameter(torch.zeros(12))
    flat.grad = torch.ones(12)
    optimizer = SWAN([{"params": [nn.Parameter(torch.zeros(3, 4))], "rule": "matrix"}])
    optimizer.param_groups[0]["params"] = [flat]
    with pytest.raises(RuntimeError, match="import gradopt_ds"):
        optimizer.step()


@pytest.mark.parametrize("build", [swan, sinkgd, polar])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e12])
def test_extreme_gradients(build: Any, scale: float) -> None:
    """Zero gradients do not move matrices; tiny and huge ones move them by finite steps."""
    model = build_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    gradients(model, 0)
    for param in model.parameters():
        assert param.grad is not None
        param.grad.mul_(scale)
    build(model, lr=1e-3).step()
    for name, param in model.named_parameters():
        assert param.isfinite().all()
        if name in MATRICES and (scale == 0.0 or build is not polar):
            assert torch.equal(param, before[name]) == (scale == 0.0)
