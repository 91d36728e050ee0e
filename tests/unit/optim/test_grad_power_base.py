"""GradPower's base takes one step over all groups, as if it stood alone."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, RMSprop

from gradopt_ds import SWAN, GradPower, matrix_param_groups
from tests.distributed.model import build_model, micro_batch


class GloballyNormalized(Optimizer):
    """Step along the gradient of all groups together, scaled to norm 1."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.calls = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take the step."""
        self.calls += 1
        moved = [(p, g["lr"]) for g in self.param_groups for p in g["params"] if p.grad is not None]
        total = torch.stack([p.grad.norm() for p, _ in moved]).norm()
        for param, lr in moved:
            param.sub_(lr * param.grad / total)


def two_groups(*gradients: float) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """A scalar in each group, with its gradient."""
    params = [nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in gradients]
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = torch.tensor(gradient, dtype=torch.float64)
    return list(params), [{"params": [param]} for param in params]


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_a_norm_over_all_groups_is_one_norm(power: float) -> None:
    """By hand: gradients 3 and -4 of norm 5; their signed squares 9 and -16 of norm sqrt(337)."""
    params, groups = two_groups(3.0, -4.0)
    base = GloballyNormalized(groups, lr=1.0)
    GradPower(base, power).step()
    size = 5.0 if power == 1.0 else 337**0.5
    assert base.calls == 1
    assert params[0].item() == pytest.approx(-(3.0**power) / size, rel=1e-12)
    assert params[1].item() == pytest.approx(4.0**power / size, rel=1e-12)


def test_every_group_has_its_own_power() -> None:
    """And a group without gradients takes no part."""
    params, groups = two_groups(3.0, -4.0, 7.0)
    params[2].grad = None
    optimizer = GradPower(SGD(groups, lr=1.0), 2.0)
    optimizer.param_groups[1]["power"] = 1.0
    optimizer.step()
    assert [param.item() for param in params] == [-9.0, 4.0, 0.0]


@pytest.mark.parametrize("power", [1.0, 1.2])
@pytest.mark.parametrize(
    ("base", "settings"),
    [
        (SGD, {"momentum": 0.9}),
        (Adam, {}),
        (AdamW, {"foreach": True}),
        (AdamW, {"fused": True}),
        (RMSprop, {}),
    ],
)
def test_bases_of_torch_over_two_groups(
    base: type[Optimizer], settings: dict[str, Any], power: float
) -> None:
    """To the bit what the base does with gradients that were raised to the power by hand."""

    def grouped(model: nn.Module) -> list[dict[str, Any]]:
        params = list(model.parameters())
        return [{"params": params[::2], "lr": 0.02}, {"params": params[1::2]}]

    model, twin = build_model(), build_model()
    ours = GradPower(base(grouped(model), lr=0.01, **settings), power)  # type: ignore[call-arg]
    theirs = base(grouped(twin), lr=0.01, **settings)  # type: ignore[call-arg]
    for step in range(3):
        for network in (model, twin):
            network.zero_grad()
            network(micro_batch(step, 0, 0)).backward()
        for param in twin.parameters():
            assert param.grad is not None
            param.grad.copy_(param.grad.sign() * param.grad.abs() ** power)
        ours.step()
        theirs.step()
    for mine, peer in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, peer, rtol=1e-6, atol=1e-8)


def test_hooks_and_schedulers_of_the_base_see_one_step() -> None:
    """Also a scheduler that was made of the base before it was wrapped."""
    _, groups = two_groups(3.0, -4.0)
    base = SGD(groups, lr=1.0)
    seen: list[str] = []
    base.register_step_pre_hook(lambda *_: seen.append("before"))
    base.register_step_post_hook(lambda *_: seen.append("after"))
    scheduler = torch.optim.lr_scheduler.LambdaLR(base, lambda step: 0.5**step)
    optimizer = GradPower(base, 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        scheduler.step()
    assert seen == ["before", "after"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_gradients_return_when_the_base_fails() -> None:
    """A caller who catches the error finds the gradients as they were."""
    params, groups = two_groups(3.0, -4.0)
    base = SGD(groups, lr=1.0)
    base.register_step_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        GradPower(base, 2.0).step()
    assert [p.grad.item() for p in params if p.grad is not None] == [3.0, -4.0]


@pytest.mark.parametrize("stepped", [False, True])
def test_a_group_added_later_is_powered_too(stepped: bool) -> None:
    """The base and GradPower keep one list of groups."""
    params, groups = two_groups(3.0, -4.0)
    optimizer = GradPower(SGD(groups[:1], lr=1.0), 2.0)
    if stepped:
        optimizer.step()
    optimizer.add_param_group(groups[1])
    optimizer.step()
    assert optimizer.param_groups is optimizer.base.param_groups and len(groups) == 2
    assert [param.item() for param in params] == [-9.0 * (1 + stepped), 16.0]


def test_a_group_of_matrices_added_later() -> None:
    """The base fills in what a group of its own needs."""
    model = build_model()
    first, second = matrix_param_groups(model)
    optimizer = GradPower(SWAN([first], oracle="svd"), 1.2)
    optimizer.add_param_group(second)
    model(micro_batch(0, 0, 0)).backward()
    before = [param.detach().clone() for param in model.parameters()]
    optimizer.step()
    assert optimizer.param_groups[1]["power"] == 1.2
    assert not any(map(torch.equal, model.parameters(), before))


def test_a_base_that_evaluates_the_model_itself_is_refused() -> None:
    """The gradients of those evaluations would stay as they are."""
    with pytest.raises(ValueError, match="GradPower of LBFGS"):
        GradPower(LBFGS([nn.Parameter(torch.zeros(3))]))
