"""The auxiliary AdamW: one kernel where it is right, torch's loop where it would not be."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradopt_ds import SWAN, matrix_param_groups
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.memory.allocations import LiveStorages
from gradopt_ds.memory.workspace import ADAM_COPIES, ROUNDED_COPIES
from gradopt_ds.optim.aux_adamw import step_aux
from tests.unit.counted import DispatchedOperations

SETTINGS = {"lr": 0.5, "lr_scale": 0.02, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
TOLERANCES = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-6}


def gradients(shape: tuple[int, ...], steps: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)]


def by_hand(weight: Tensor, grads: list[Tensor]) -> Tensor:
    """AdamW in float64, as its paper has it."""
    beta1, beta2 = SETTINGS["betas"]
    lr, first, second = SETTINGS["lr"] * SETTINGS["lr_scale"], 0 * weight, 0 * weight
    for t, gradient in enumerate(grads, 1):
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        weight = weight - lr * SETTINGS["weight_decay"] * weight
        root = (second / (1 - beta2**t)).sqrt() + SETTINGS["eps"]
        weight = weight - lr * first / (1 - beta1**t) / root
    return weight


def stepped(weight: Tensor, grads: list[Tensor], state: dict[Any, Any] | None = None) -> Tensor:
    weight = weight.requires_grad_()
    state = {weight: {}} if state is None else {weight: state}
    for gradient in grads:
        weight.grad = gradient.to(weight.dtype)
        step_aux([{**SETTINGS, "params": [weight]}], state, None)
    return weight.detach()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_one_kernel_steps_like_adamw(dtype: torch.dtype) -> None:
    grads = [gradient.to(dtype).double() for gradient in gradients((33, 7))]
    with DispatchedOperations() as counted:
        found = stepped(torch.ones(33, 7, dtype=dtype), grads)
    assert counted.names["aten::_fused_adamw_"] == len(grads)
    expected = by_hand(torch.ones(33, 7, dtype=torch.float64), grads)
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCES[dtype], atol=0)


TRANSPOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "every other": lambda x: torch.stack([x, 0 * x], -1)[..., 0],
    "contiguous": lambda x: x.contiguous(),
}


@pytest.mark.parametrize("weight", TRANSPOSED)
@pytest.mark.parametrize("gradient", TRANSPOSED)
def test_layouts_that_differ(weight: str, gradient: str) -> None:
    """torch's kernel would update other elements, without an error."""
    grads = gradients((33, 7))
    own = TRANSPOSED[weight](torch.ones(33, 7, dtype=torch.float64))
    found = stepped(own, [TRANSPOSED[gradient](g) for g in grads])
    torch.testing.assert_close(found, by_hand(torch.ones(33, 7).double(), grads))


def test_state_that_the_loop_saved_goes_on() -> None:
    """Its counter may be float64, where that is torch's default dtype."""
    grads = gradients((12,))
    weight = torch.ones(12, dtype=torch.float64).requires_grad_()
    settings = {k: v for k, v in SETTINGS.items() if k != "lr_scale"}
    old = torch.optim.AdamW([weight], **{**settings, "lr": 0.01}, foreach=False, fused=False)
    for gradient in grads[:2]:
        weight.grad = gradient
        old.step()
    state = {**old.state[weight], "step": old.state[weight]["step"].double()}
    found = stepped(weight.detach().clone(), grads[2:], state)
    torch.testing.assert_close(found, by_hand(torch.ones(12, dtype=torch.float64), grads))
    assert state["step"] == 4 and state["step"].dtype == torch.float32
    assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_temporaries_are_those_of_the_estimate() -> None:
    weight = torch.ones(10_000).requires_grad_()
    weight.grad = torch.ones(10_000)
    state: dict[Any, Any] = {weight: {}}
    step_aux([{**SETTINGS, "params": [weight]}], state, None)
    with LiveStorages() as live:
        step_aux([{**SETTINGS, "params": [weight]}], state, None)
    assert live.peak < 100  # counters
    with LiveStorages() as live:
        torch.optim.AdamW([weight], lr=0.1)
        looped = torch.optim.AdamW([weight], lr=0.1)
        looped.state = state  # type: ignore[assignment]
        looped.step()
    assert 4 * 10_000 < live.peak <= ADAM_COPIES * 4 * 10_000 + 100


def test_temporaries_of_stochastic_rounding() -> None:
    weight = torch.ones(10_000, dtype=torch.bfloat16).requires_grad_()
    weight.grad = torch.ones_like(weight)
    state: dict[Any, Any] = {weight: {}}
    group = {**SETTINGS, "params": [weight]}
    step_aux([group], state, torch.Generator())
    with LiveStorages() as live:
        step_aux([group], state, torch.Generator())
    bound = ROUNDED_COPIES * 4 * 10_000
    assert 0.7 * bound < live.peak <= bound + 100


def test_adam_power_takes_one_kernel_and_keeps_it() -> None:
    """Also after loading a state that was saved without it."""
    model = nn.Linear(5, 3)
    model.weight.grad, model.bias.grad = torch.ones(3, 5), torch.ones(3)
    optimizer = build_optimizer("AdamPower", {"lr": 0.1}, model, model.parameters())
    with DispatchedOperations() as counted:
        optimizer.step()
    assert counted.names["aten::_fused_adamw_"] == 1
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["fused"] = None
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["fused"] is True
    assert pickle.loads(pickle.dumps(optimizer)).param_groups[0]["fused"] is True


def test_adam_power_of_a_transposed_weight_is_torchs_loop() -> None:
    model = nn.Linear(5, 3)
    model.weight.data = model.weight.data.mT.contiguous().mT
    optimizer = build_optimizer("AdamPower", {"lr": 0.1}, model, model.parameters())
    assert optimizer.param_groups[0]["fused"] is None


def test_a_whole_optimizer_takes_one_kernel_a_group() -> None:
    model = nn.Sequential(nn.Embedding(7, 6), nn.LayerNorm(6), nn.Linear(6, 4))
    optimizer = SWAN(matrix_param_groups(model))
    model(torch.tensor([1, 2])).sum().backward()
    with DispatchedOperations() as counted:
        optimizer.step()
    assert counted.names["aten::_fused_adamw_"] == 1
