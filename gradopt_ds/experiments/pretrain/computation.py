"""How the model is computed, with the same result to rounding: recomputed layers, compiled code."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import deepspeed
from deepspeed import DeepSpeedEngine
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from gradopt_ds.experiments.common.errors import PretrainError, reason
from gradopt_ds.experiments.pretrain.settings import RunSettings


def set_checkpointing(
    model: PreTrainedModel, settings: RunSettings, config: Mapping[str, Any]
) -> None:
    """Let every layer recompute its activations in the backward pass, if the settings ask for it.

    ``transformers`` takes torch's function; ``deepspeed`` DeepSpeed's own, which reads the block
    ``activation_checkpointing`` of the JSON.

    Args:
        model: in place.
        settings: of the run.
        config: the DeepSpeed JSON.

    Raises:
        PretrainError: the model has no such layers, or the JSON's block would have no effect.
    """
    if "activation_checkpointing" in config and settings.checkpointing != "deepspeed":
        raise PretrainError(
            f"{settings.deepspeed_config} has a block 'activation_checkpointing', which is read "
            f"with --checkpointing deepspeed only (it is {settings.checkpointing}): set the flag, "
            "or remove the block"
        )
    if settings.checkpointing == "none":
        return
    function: Callable[..., Any] = partial(checkpoint, use_reentrant=False)
    if settings.checkpointing == "deepspeed":
        deepspeed.checkpointing.configure(mpu_=None, deepspeed_config=dict(config))
        function = deepspeed.checkpointing.checkpoint
    try:
        # The public gradient_checkpointing_enable takes torch's function only.
        model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=function)
    except ValueError as error:
        raise PretrainError(f"--checkpointing {settings.checkpointing}: {reason(error)}") from None


def compile_if_asked(engine: DeepSpeedEngine, settings: RunSettings) -> None:
    """Compile the engine's module by ``torch.compile``, as DeepSpeed does it.

    Raises:
        PretrainError: DeepSpeed or this torch cannot.
    """
    if not settings.compile:
        return
    try:
        engine.compile()
    except (RuntimeError, ValueError) as error:
        raise PretrainError(f"--compile: {reason(error)}") from error
