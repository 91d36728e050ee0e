"""A group's own learning rate: of matrices, of what accompanies them, of auxiliary parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from gradopt_ds import SWAN, AuxAdamW, GradPower, PolarGrad, matrix_param_groups
from tests.distributed.model import MATRICES, TinyLM, build_model

AUX: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
LR = 0.2


def two_groups(model: TinyLM) -> list[dict[str, Any]]:
    """The embedding with a rate of its own, and everything else."""
    rest = [param for param in model.parameters() if param is not model.embed.weight]
    return [{"params": [model.embed.weight], "lr": 1e-4}, {"params": rest}]


def polar(groups: list[dict[str, Any]]) -> PolarGrad:
    """PolarGrad with the rates of this file."""
    return PolarGrad(groups, lr=LR, oracle="svd", aux=AuxAdamW(**AUX))


def steps_of_adamw(
    params: Mapping[str, Tensor], rates: Mapping[str, list[float]]
) -> dict[str, Tensor]:
    """Weights after steps of torch's AdamW with the rates, on the gradients of ``gradient``."""
    copies = {name: nn.Parameter(param.detach().clone()) for name, param in params.items()}
    for name, copy in copies.items():
        adamw = AdamW([copy], **AUX)
        for step, rate in enumerate(rates[name]):
            adamw.param_groups[0]["lr"] = rate
            copy.grad = gradient(copy.shape, step)
            adamw.step()
    return {name: copy.detach() for name, copy in copies.items()}


def gradient(shape: torch.Size, step: int) -> Tensor:
    """The gradient of every parameter of a shape in a step."""
    draw = torch.Generator().manual_seed(step)
    return torch.randn(shape, generator=draw)


def take_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, after: Callable[[], None] = lambda: None
) -> None:
    """Two steps on given gradients."""
    for step in range(2):
        for param in model.parameters():
            param.grad = gradient(param.shape, step)
        optimizer.step()
        after()


def test_a_group_without_matrices_steps_with_its_own_rate() -> None:
    """As given, where the other auxiliary parameters step with ``aux.lr``."""
    model = build_model()
    others = {n: p for n, p in model.named_parameters() if n not in MATRICES}
    rates = {n: [1e-4 if n == "embed.weight" else AUX["lr"]] * 2 for n in others}
    expected = steps_of_adamw(others, rates)
    take_steps(model, polar(matrix_param_groups(model, two_groups(model))))
    for name, param in others.items():
        torch.testing.assert_close(param.detach(), expected[name], rtol=1e-6, atol=1e-9)


def test_it_is_the_same_for_a_group_made_by_hand() -> None:
    """And behind a gradient power of 1, which changes nothing."""
    model = build_model()
    weight = model.embed.weight
    expected = steps_of_adamw({"embed": weight}, {"embed": [1e-4, 1e-4]})
    group = {"params": [weight], "rule": "aux", "lr": 1e-4}
    take_steps(model, GradPower(polar([group]), 1.0))
    torch.testing.assert_close(weight.detach(), expected["embed"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scheduler", ["one rate for all groups", "torch"])
def test_a_schedule_scales_the_own_rate(scheduler: str) -> None:
    """Halved after one step, whoever halves it: DeepSpeed writes one number into all groups."""
    model = build_model()
    weight = model.embed.weight
    expected = steps_of_adamw({"embed": weight}, {"embed": [1e-4, 5e-5]})
    optimizer = polar(matrix_param_groups(model, two_groups(model)))
    halving = LambdaLR(optimizer, lambda step: 0.5**step) if scheduler == "torch" else None

    def halve() -> None:
        for group in optimizer.param_groups:
            group["lr"] = LR / 2

    take_steps(model, optimizer, halving.step if halving else halve)
    torch.testing.assert_close(weight.detach(), expected["embed"], rtol=1e-6, atol=1e-9)


def test_a_group_with_matrices_scales_both_of_its_parts() -> None:
    """A quarter of the matrices' rate: a quarter of ``aux.lr`` for its norms and biases."""
    model = build_model()
    others = {n: p for n, p in model.named_parameters() if n not in MATRICES}
    expected = steps_of_adamw(others, {n: [AUX["lr"] / 4] * 2 for n in others})
    groups = [{"params": list(model.parameters()), "lr": LR / 4}]
    optimizer = polar(matrix_param_groups(model, groups))
    take_steps(model, optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [LR / 4, LR / 4]
    for name, param in others.items():
        torch.testing.assert_close(param.detach(), expected[name], rtol=1e-6, atol=1e-9)


def test_groups_of_one_optimizer_serve_for_another() -> None:
    """Rates that have been worked out are not worked out again."""
    model = build_model()
    first = SWAN(matrix_param_groups(model, two_groups(model)))
    second = SWAN(first.param_groups)
    for key in ("lr", "lr_scale"):
        assert [g.get(key) for g in second.param_groups] == [g.get(key) for g in first.param_groups]


def test_torch_refuses_to_cycle_a_momentum_that_would_not_follow() -> None:
    """The momentum is not the optimizer's but its matrix groups'; rates are cycled all the same."""
    optimizer = polar(matrix_param_groups(build_model()))
    with pytest.raises(ValueError, match="must support momentum"):
        OneCycleLR(optimizer, max_lr=LR, total_steps=4)
    OneCycleLR(optimizer, max_lr=LR, total_steps=4, cycle_momentum=False)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([LR / 25] * 2)
    assert optimizer.param_groups[0]["momentum"] == 0.95
