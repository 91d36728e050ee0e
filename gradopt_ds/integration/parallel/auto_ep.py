"""DeepSpeed's AutoEP and the releases of transformers that it works with."""

from importlib.metadata import version
from typing import Any

NEWEST = "5.22.2"
"""The newest release of transformers with which AutoEP of DeepSpeed 0.19.8 replaces the layers of
Qwen2MoE, Qwen3MoE and Mixtral."""


def explain_failure(error: TypeError) -> None:
    """Say what to change if AutoEP failed at the registry of outputs of transformers.

    From 5.23.0 on the registry's ``get`` takes the model, where AutoEP asks it as a dictionary: by
    a name, with a default.

    Args:
        error: what AutoEP raised.

    Raises:
        NotImplementedError: the registry of the installed release cannot be asked so.
    """
    registry = _registry()
    if registry is None:
        return
    try:
        registry.get("a class", None)
    except TypeError:
        raise NotImplementedError(
            f'"expert_parallel" (AutoEP) does not work with transformers {version("transformers")} '
            "for this model: DeepSpeed asks transformers' registry of outputs as a dictionary, and "
            f"it is none any longer ({error}). Install transformers=={NEWEST}, the newest release "
            "with which it works"
        ) from error


def _registry() -> Any:
    try:
        from transformers.utils import output_capturing
    except ImportError:
        return None
    return getattr(output_capturing, "_CAN_RECORD_REGISTRY", None)
