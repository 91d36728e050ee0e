"""copy.deepcopy and pickle of every optimizer: what comes back goes on like the original."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from gradopt_ds import SWAN, AuxAdamW, GradPower, Muon, PolarGrad, SinkGD, matrix_param_groups
from tests.distributed.model import build_model, micro_batch

Pair = tuple[nn.Module, Optimizer]
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "AdamW": lambda m: AdamW(m.parameters(), lr=0.01),  # torch's own, as the measure
    "SWAN": lambda m: SWAN(matrix_param_groups(m), lr=0.1),
    "SWAN, rounded": lambda m: SWAN(matrix_param_groups(m), lr=0.1, stochastic_rounding=True),
    "SinkGD": lambda m: SinkGD(matrix_param_groups(m), lr=0.1),
    "PolarGrad": lambda m: PolarGrad(
        matrix_param_groups(m), lr=0.1, momentum_order="polar_first", oracle="svd"
    ),
    "Muon": lambda m: Muon(matrix_param_groups(m, split={"*.square.weight": 2}), scale="rms"),
    "GradPower of AdamW": lambda m: GradPower(AdamW(m.parameters(), lr=0.01), 1.2),
    "GradPower of SGD": lambda m: GradPower(SGD(m.parameters(), lr=0.1, momentum=0.9), 1.2),
    "GradPower of PolarGrad": lambda m: GradPower(PolarGrad(matrix_param_groups(m), lr=0.1), 0.9),
}


def pickled(pair: Pair) -> Any:
    """Through bytes."""
    return pickle.loads(pickle.dumps(pair))


def saved(pair: Pair) -> Any:
    """Through torch's file format."""
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def train(pair: Pair, steps: range) -> None:
    """Take steps on batches of their own."""
    model, optimizer = pair
    for step in steps:
        model.zero_grad()
        model(micro_batch(step, 0, 0)).backward()
        optimizer.step()


@pytest.mark.parametrize("again", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_copy_goes_on_like_the_original(name: str, steps: int, again: Any) -> None:
    """Bit for bit, before the first step and in the middle of a run; neither moves the other."""
    model = build_model().to(torch.bfloat16 if "rounded" in name else torch.float32)
    pair = (model, OPTIMIZERS[name](model))
    train(pair, range(steps))
    twin = again(pair)
    at_the_copy = [param.detach().clone() for param in model.parameters()]
    train(twin, range(steps, steps + 3))
    assert all(map(torch.equal, model.parameters(), at_the_copy))
    train(pair, range(steps, steps + 3))
    for mine, peer in zip(model.parameters(), twin[0].parameters(), strict=True):
        assert torch.equal(mine, peer)
    assert not torch.equal(next(model.parameters()), at_the_copy[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_copy_of_a_copy_saves_and_loads(name: str) -> None:
    """Its state dict is one that an optimizer made from scratch takes."""
    model = build_model()
    pair = (model, OPTIMIZERS[name](model))
    train(pair, range(2))
    twin = copy.deepcopy(pickled(pair))
    fresh_model = build_model()
    fresh_model.load_state_dict(twin[0].state_dict())
    fresh = OPTIMIZERS[name](fresh_model)
    fresh.load_state_dict(twin[1].state_dict())
    train(pair, range(2, 4))
    train((fresh_model, fresh), range(2, 4))
    assert all(map(torch.equal, model.parameters(), fresh_model.parameters()))


@pytest.mark.parametrize("name", ["SWAN", "GradPower of PolarGrad"])
def test_a_scheduler_s_step_is_not_copied(name: str) -> None:
    """A scheduler wraps the step of one object; the copy must not step the original."""
    model = build_model()
    pair = (model, OPTIMIZERS[name](model))
    torch.optim.lr_scheduler.LambdaLR(pair[1], lambda step: 0.5)
    twin = copy.deepcopy(pair)
    before = [param.detach().clone() for param in model.parameters()]
    train(twin, range(1))
    assert all(map(torch.equal, model.parameters(), before))
    assert not any(map(torch.equal, twin[0].parameters(), before))


def test_a_group_may_be_added_to_a_copy() -> None:
    """What fills in a group's settings came along."""
    model = build_model()
    matrices, others = matrix_param_groups(model)
    twin, others = copy.deepcopy((SWAN([matrices], lr=0.3, aux=AuxAdamW(lr=0.06)), others))
    twin.add_param_group(others)
    assert twin.param_groups[1]["lr_scale"] == pytest.approx(0.2)
