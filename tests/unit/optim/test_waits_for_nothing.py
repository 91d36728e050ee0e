"""A default step never asks the device for a value: the host runs ahead of a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore

from gradopt_ds import SWAN, GradPower, Muon, PolarGrad, SinkGD
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.registry import OPTIMIZERS
from gradopt_ds.optim import MatrixOptimizer
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.sharding import Exchange, Matrix, ShardedMatrixMap, chunked_layout, make_plan
from tests.distributed.model import build_model
from tests.unit.unread_device import META, unread_device


def step_twice(optimizer: Optimizer) -> None:
    """The first step makes the state, the second finds it."""
    for _ in range(2):
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.empty_like(param)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_of_the_json(name: str, dtype: torch.dtype) -> None:
    model = build_model().to(META, dtype)
    with unread_device():
        optimizer = build_optimizer(name, {}, model, model.parameters())
        for group in optimizer.param_groups:
            if group.get("fused", True) is None:
                group["fused"] = True  # as on a device that has the kernel
        step_twice(optimizer)


@pytest.mark.parametrize("optimizer", [SWAN, PolarGrad, SinkGD, Muon])
def test_stochastic_rounding(optimizer: Any) -> None:
    """Of the matrices, and of the auxiliary AdamW's weights, moments and counter."""
    model = build_model().to(META, torch.bfloat16)
    params = {"stochastic_rounding": True}
    with unread_device():
        built = build_optimizer(
            "MatrixMuon" if optimizer is Muon else optimizer.__name__, params, model, None
        )
        step_twice(built)


@pytest.mark.parametrize(
    "spec",
    [
        "newton_schulz", "gram_newton_schulz", "polar_express", "gram_polar_express",
        "coupled_newton_schulz", "nsds", "qdwh", "zolo_pd",
    ],
)  # fmt: skip
def test_iterations_of_a_fixed_number_of_steps(spec: str) -> None:
    weight = nn.Parameter(torch.empty(24, 8, device=META))
    with unread_device():
        step_twice(Muon([{"params": [weight], "rule": MATRIX}], oracle=spec))


class Arrived:
    """A collective that nobody waits for."""

    def wait(self) -> None:
        pass


@pytest.mark.parametrize("strategy", ["owner", "gram"])
@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [(SWAN, {}), (PolarGrad, {}), (PolarGrad, {"momentum_order": "polar_first"}), (Muon, {})],
)
def test_the_exchange(
    optimizer: Any, settings: dict[str, Any], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gather, rule and scatter of matrices that are cut over four ranks."""
    matrices = [Matrix("tall", 32, 4), Matrix("wide", 4, 32), Matrix("square", 8, 8)]
    layout = chunked_layout(matrices, [-(-m.numel // 4) for m in matrices], 4)
    weight = nn.Parameter(torch.empty(layout.slice_size, device=META))
    own: MatrixOptimizer = optimizer(
        [{"params": [weight], "rule": MATRIX, "blocks": [[]]}], **settings
    )
    exchange = {"exchange_strategy": {"tall": strategy}}
    plan = make_plan(layout, own.oracle, own.exchange.model_validate(exchange))
    assert plan.count(strategy)
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    try:
        for name in ("all_to_all_single", "all_reduce"):
            monkeypatch.setattr(dist, name, lambda *_, **__: Arrived())
        own.matrix_map = ShardedMatrixMap({weight: Exchange(plan, dist.group.WORLD, device=META)})
        with unread_device():
            step_twice(own)
    finally:
        dist.destroy_process_group()


def read_a_value(optimizer: Muon, weight: Tensor) -> object:
    return float(weight.grad.norm()) if weight.grad is not None else None


def branch_on_a_value(optimizer: Muon, weight: Tensor) -> object:
    return weight.any() and None


def choose_by_a_mask(optimizer: Muon, weight: Tensor) -> object:
    return weight[weight > 0]


def copy_from_the_cpu(optimizer: Muon, weight: Tensor) -> object:
    return torch.ones(()).to(weight.device)


@pytest.mark.parametrize(
    "wait", [read_a_value, branch_on_a_value, choose_by_a_mask, copy_from_the_cpu]
)
def test_what_waits_is_refused(wait: Callable[[Muon, Tensor], object]) -> None:
    """These tests would fail."""
    weight = nn.Parameter(torch.empty(8, 8, device=META))
    optimizer = Muon([{"params": [weight], "rule": MATRIX}])
    optimizer.register_step_post_hook(lambda *_: wait(optimizer, weight))
    with pytest.raises((RuntimeError, AssertionError)), unread_device():
        step_twice(optimizer)


def test_the_oracle_that_waits_is_the_one_that_says_so() -> None:
    """Its number of steps depends on the values."""
    weight = nn.Parameter(torch.empty(8, 8, device=META))
    with pytest.raises(RuntimeError), unread_device():
        step_twice(Muon([{"params": [weight], "rule": MATRIX}], oracle="adaptive"))


def test_grad_power_around_an_optimizer_of_torch() -> None:
    weight = nn.Parameter(torch.empty(8, device=META))
    with unread_device():
        step_twice(GradPower(torch.optim.SGD([weight], momentum=0.9), power=1.2))
