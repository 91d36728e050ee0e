"""This library's optimizers for transformers' Trainer, where the JSON names none."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.registry import canonical_name, names


def trainer_optimizer(
    name: str, **params: Any
) -> tuple[Callable[[], Callable[..., Optimizer]], dict[str, Any]]:
    """Make what ``Trainer(optimizer_cls_and_kwargs=…)`` takes, for an optimizer of this library.

    Trainer hands the model to it, so that it knows which parameters are matrices. Settings are
    those given here; ``TrainingArguments`` sets none of them, its schedule is followed. Under
    DeepSpeed the JSON must not have an ``"optimizer"``: Trainer would take that one.

    Args:
        name: an optimizer type of this library's, as in DeepSpeed's JSON.
        params: its keys there.

    Raises:
        ValueError: the name is unknown. What is wrong with ``params`` is said when Trainer builds
            the optimizer.
    """
    if canonical_name(name) is None:
        raise ValueError(f"unknown optimizer {name!r}; valid: {', '.join(names())}")

    def build(model: nn.Module, **settings: Any) -> Optimizer:
        trainable = [param for param in model.parameters() if param.requires_grad]
        return build_optimizer(name, settings, model, trainable)

    # Trainer calls what it takes for a class, then what that returns.
    return lambda: build, params
