"""Stochastic rounding: unbiased, between the two neighbours, reproducible."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradopt_ds import SWAN, matrix_param_groups
from gradopt_ds.optim.aux_adamw import step_aux
from gradopt_ds.optim.rounding import round_stochastically
from tests.distributed.model import build_model, micro_batch


def generator(seed: int = 0) -> torch.Generator:
    """Random numbers of a test."""
    return torch.Generator().manual_seed(seed)


@settings(max_examples=100, deadline=None)
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False), seed=st.integers(0, 99))
def test_rounds_to_a_neighbour(value: float, seed: int) -> None:
    """Up or down by less than a unit in the last place; what bfloat16 can say stays."""
    x = torch.full((64,), value)
    actual = round_stochastically(x, generator(seed)).double()
    bits = x[:1].view(torch.int32)
    below = (bits & -(1 << 16)).view(torch.float32).double()
    above = ((bits & -(1 << 16)) + (1 << 16)).view(torch.float32).double()
    exact = below == x[:1].double()
    assert ((actual == below) | ((actual == above) & ~exact)).all()


def test_keeps_the_mean() -> None:
    """1 + 2^-10 lies an eighth of the way to the next bfloat16, 1 + 2^-7."""
    x = torch.full((200_000,), 1 + 2**-10)
    rounded_up = round_stochastically(x, generator()).float().gt(1).float().mean().item()
    assert rounded_up == pytest.approx(1 / 8, abs=0.004)  # 5 standard deviations


def test_infinity_and_nan_stay() -> None:
    """Noise in their bits would turn the one into the other."""
    full = torch.tensor([2**31 - 1], dtype=torch.int32).view(torch.float32)  # a NaN of all ones
    x = torch.cat([torch.tensor([torch.inf, -torch.inf, torch.nan]), full]).repeat(1000)
    actual = round_stochastically(x, generator()).float()
    assert torch.equal(actual.isnan(), x.isnan()) and torch.equal(actual.isinf(), x.isinf())


def small_steps(stochastic_rounding: bool) -> torch.Tensor:
    """How far 40 steps, each a hundredth of a unit in the last place, have come."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False)).bfloat16()
    weight = model[0].weight
    gradient = torch.randn(64, 64, generator=generator())
    torch.nn.init.ones_(weight)
    optimizer = SWAN(
        matrix_param_groups(model), lr=2**-7 / 100, alpha=1.0,
        stochastic_rounding=stochastic_rounding,
    )  # fmt: skip
    for _ in range(40):
        weight.grad = gradient.bfloat16()
        optimizer.step()
    return weight.detach().double() - 1


def test_small_steps_add_up() -> None:
    """To nearest, nothing ever happens; stochastically, the weights move as far as they should."""
    assert not small_steps(stochastic_rounding=False).any()
    whole = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False))
    torch.nn.init.ones_(whole[0].weight)
    optimizer = SWAN(matrix_param_groups(whole), lr=2**-7 / 100, alpha=1.0)
    gradient = torch.randn(64, 64, generator=generator())
    for _ in range(40):
        whole[0].weight.grad = gradient.bfloat16().float()
        optimizer.step()
    expected = whole[0].weight.detach().double() - 1
    actual = small_steps(stochastic_rounding=True)
    slope = (actual * expected).sum() / expected.square().sum()
    assert slope.item() == pytest.approx(1, abs=0.1)
    # Other random numbers in every step: no element is rounded up all 40 times.
    assert actual.abs().max() < 20 * 2**-7


def test_adamw_in_float32_is_torchs() -> None:
    """But for the rounding of what is stored: exact where bfloat16 is."""
    gradient = torch.randn(3000, generator=generator()).bfloat16()
    settings_ = {"lr": 0.5, "lr_scale": 0.5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    weight = torch.zeros(3000, dtype=torch.bfloat16).requires_grad_()
    weight.grad = gradient
    state: dict[torch.Tensor, dict[str, torch.Tensor]] = {weight: {}}
    step_aux([{**settings_, "params": [weight]}], state, generator())
    truth = torch.zeros(3000).requires_grad_()
    truth.grad = gradient.float()
    torch.optim.AdamW([truth], lr=0.25, betas=(0.9, 0.99), weight_decay=0.1).step()
    torch.testing.assert_close(weight.float(), truth, rtol=2**-7, atol=0)
    torch.testing.assert_close(state[weight]["exp_avg_sq"].float(), 0.01 * gradient.float() ** 2,
                               rtol=2**-7, atol=0)  # fmt: skip
    assert state[weight]["step"] == 1 and state[weight]["exp_avg"].dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(), (5,), (6, 4), (2, 3, 4)])
def test_adamw_steps_on_any_layout(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Transposed weights and gradients, a scalar, and chunks smaller than a parameter."""
    monkeypatch.setattr("gradopt_ds.optim.aux_adamw.CHUNK", 8)
    gradient = torch.randn(shape, generator=generator()).bfloat16()
    backwards = tuple(range(len(shape)))[::-1]

    def transposed(x: torch.Tensor) -> torch.Tensor:
        return x.permute(backwards).contiguous().permute(backwards)

    weight = transposed(torch.zeros(shape, dtype=torch.bfloat16)).requires_grad_()
    weight.grad = transposed(gradient)
    settings_ = {"lr": 0.5, "lr_scale": 0.5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    state: dict[torch.Tensor, dict[str, torch.Tensor]] = {weight: {}}
    step_aux([{**settings_, "params": [weight]}], state, generator())
    # The first step of AdamW from zero is lr * sign(g).
    torch.testing.assert_close(weight.detach(), -0.25 * gradient.sign(), rtol=2**-7, atol=0)
    assert state[weight]["step"] == 1


def test_resuming_continues_the_random_numbers() -> None:
    """The counter travels in the state: bit-equal to an unbroken run."""

    def build() -> tuple[torch.nn.Module, SWAN]:
        model = build_model().bfloat16()
        return model, SWAN(matrix_param_groups(model), stochastic_rounding=True)

    def train(model: torch.nn.Module, optimizer: SWAN, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            model(micro_batch(step, 0, 0)).backward()
            optimizer.step()

    unbroken, optimizer = build()
    train(unbroken, optimizer, range(4))
    first, optimizer = build()
    train(first, optimizer, range(2))
    resumed, fresh = build()
    resumed.load_state_dict(first.state_dict())
    fresh.load_state_dict(optimizer.state_dict())
    train(resumed, fresh, range(2, 4))
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
