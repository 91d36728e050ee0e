"""Engines on the tiny model, and what the tests of their behaviour ask of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from gradopt_ds.optim import MatrixOptimizer, base_of
from tests.distributed.model import SAMPLES, build_model, micro_batch
from tests.distributed.recipes import AUX

POLAR = {"lr": 0.1, "momentum": 0.8, "oracle": "svd", "aux": AUX}
SWAN_PARAMS = {"lr": 0.2, "alpha": 0.1, "oracle": "svd", "aux": AUX}
BF16 = {"bf16": {"enabled": True}}


@dataclass(frozen=True)
class Setting:
    """A case of tests that differ in the DeepSpeed JSON alone."""

    optimizer: str = "PolarGrad"
    stage: int = 2
    params: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For ``job_id``."""
        extra = [f"{key} {value}" for key, value in self.extra.items()]
        return " ".join([self.optimizer, f"stage{self.stage}", *extra])

    def config(self, **more: Any) -> dict[str, Any]:
        """The JSON."""
        return config(self.optimizer, self.params, stage=self.stage, **{**self.extra, **more})


def on_stages(
    *stages: int, optimizer: str = "PolarGrad", params: dict[str, Any] | None = None
) -> list[Setting]:
    """One optimizer at each of them."""
    return [Setting(optimizer, stage, params) for stage in stages]


def config(
    type_: str | None = "PolarGrad",
    params: dict[str, Any] | None = None,
    *,
    stage: int = 2,
    **extra: Any,
) -> dict[str, Any]:
    """A DeepSpeed config for the tiny model."""
    zero = {"stage": stage, **extra.pop("zero", {})}
    named = (
        {"optimizer": {"type": type_, "params": POLAR if params is None else params}}
        if type_
        else {}
    )
    return {
        "train_micro_batch_size_per_gpu": SAMPLES,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0
        "zero_optimization": zero,
        **named,
        **extra,
    }


def start(settings: dict[str, Any], **arguments: Any) -> Any:
    """An engine on the tiny model."""
    arguments.setdefault("model", build_model())
    return deepspeed.initialize(config=settings, **arguments)[0]


def forward_backward(engine: Any, step: int) -> None:
    """All micro-batches of a step, as many as the engine accumulates; the last step left out."""
    accumulation = engine.gradient_accumulation_steps()
    for micro in range(accumulation):
        tokens = micro_batch(step, micro, dist.get_rank()).to(engine.device)
        engine.backward(engine(tokens))
        if micro < accumulation - 1:
            engine.step()


def train(engine: Any, steps: range) -> None:
    """Take optimizer steps, with the accumulation that the engine is set to."""
    for step in steps:
        forward_backward(engine, step)
        engine.step()


def weights(engine: Any) -> dict[str, Tensor]:
    """Copies of the model's weights."""
    params = list(engine.module.parameters())
    is_cut = any(hasattr(param, "ds_id") for param in params)
    with deepspeed.zero.GatheredParameters(params, enabled=is_cut):
        return {n: p.detach().clone() for n, p in engine.module.named_parameters()}


def state(engine: Any) -> dict[str, Tensor]:
    """Copies of the optimizer's state on this rank."""
    optimizer = engine.basic_optimizer
    params = [param for group in optimizer.param_groups for param in group["params"]]
    # Stage 3 puts its slices into the groups for the step only.
    params = getattr(engine.optimizer, "fp32_partitioned_groups_flat", params)
    return {
        f"{i}.{key}": value.clone()
        for i, param in enumerate(params)
        for key, value in optimizer.state[param].items()
    }


def matrix_optimizer(engine: Any) -> MatrixOptimizer:
    """This library's optimizer inside an engine."""
    optimizer = engine.basic_optimizer
    base = base_of(optimizer)
    assert isinstance(base, MatrixOptimizer)
    return base


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bitwise equality of two sets of weights."""
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), f"{name} differs"


def assert_raises(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    """The error comes, with this message, on this rank."""
    try:
        call()
    except error as raised:
        assert message in str(raised), raised
    else:
        raise AssertionError(f"{error.__name__} with {message!r} was not raised")
