"""Optimizers of other people under a name of their own."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import gradopt_ds
from gradopt_ds import GradPower, MatrixOptimizer
from gradopt_ds.integration import registry
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.registry import canonical_name, is_elementwise
from gradopt_ds.matrices import RowShards
from gradopt_ds.optim import AuxAdamW
from tests.distributed.model import build_model


class Sign(Optimizer):
    """Elementwise: the sign of the gradient."""

    def __init__(self, params: Any, lr: float = 0.5) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Move every element by ``lr``."""
        for group in self.param_groups:
            for param in group["params"]:
                param.data -= group["lr"] * param.grad.sign()


class Frobenius(MatrixOptimizer):
    """A matrix rule: the gradient over its Frobenius norm."""

    def __init__(self, params: Any, lr: float = 0.5) -> None:
        defaults = {"lr": lr, "weight_decay": 0.0}
        super().__init__(params, defaults, "svd", AuxAdamW(), stochastic_rounding=False)

    def _matrix_rule(
        self, matrices: Tensor, across: RowShards, group: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        return matrices.clone(), 1 / across.sum(matrices.square().sum((-2, -1))).sqrt()


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that a test registers are gone after it."""
    monkeypatch.setattr(registry, "OPTIMIZERS", dict(registry.OPTIMIZERS))
    monkeypatch.setattr("gradopt_ds.integration.optimizer_json.OPTIMIZERS", registry.OPTIMIZERS)


def stepped(name: str, params: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Updates and gradients of a model by parameter name, from one step."""
    model = build_model()
    optimizer = build_optimizer(name, params, model, list(model.parameters()))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    gradients = {}
    generator = torch.Generator().manual_seed(0)
    for key, param in model.named_parameters():
        param.grad = gradients[key] = torch.randn(
            param.shape, generator=generator, dtype=param.dtype
        )
    optimizer.step()
    return {k: v.detach() - before[k] for k, v in model.named_parameters()}, gradients


def test_an_elementwise_optimizer() -> None:
    """Its constructor's arguments are the keys; it is a base of GradPower too."""
    gradopt_ds.register_optimizer("Sign", Sign)
    assert canonical_name("sign") == "Sign" and is_elementwise(Sign)
    updates, gradients = stepped("SIGN", {"lr": 0.25})
    for name, update in updates.items():
        torch.testing.assert_close(update, -0.25 * gradients[name].sign(), rtol=0, atol=1e-6)
    model = build_model()
    base = {"power": 1.5, "base": {"type": "sign", "params": {"lr": 0.25}}}
    assert isinstance(build_optimizer("GradPower", base, model, model.parameters()), GradPower)
    with pytest.raises(ValueError, match="Sign: unknown key 'beta'; valid: lr, power"):
        build_optimizer("Sign", {"beta": 1}, model, model.parameters())


def test_a_matrix_optimizer() -> None:
    """It gets matrices, and AdamW the rest; with a power of its own."""
    gradopt_ds.register_optimizer("FrobeniusPower", Frobenius, power=2.0)
    updates, gradients = stepped("FrobeniusPower", {})
    name = next(name for name in updates if "up.weight" in name)
    powered = gradients[name].sign() * gradients[name].abs() ** 2.0
    torch.testing.assert_close(updates[name], -0.5 * powered / powered.norm())


@pytest.mark.parametrize("name", ["swan", "Muon", "adamw", "SGD", "gradpower"])
def test_names_that_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match="is taken"):
        gradopt_ds.register_optimizer(name, Sign)


@pytest.mark.parametrize("wrong", [GradPower, torch.nn.Linear, "SGD"])
def test_what_is_no_optimizer(wrong: Any) -> None:
    with pytest.raises(TypeError, match="Mine"):
        gradopt_ds.register_optimizer("Mine", wrong)
