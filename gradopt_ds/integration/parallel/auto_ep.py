"""DeepSpeed's AutoEP and the releases of transformers that it works with."""

import sys
from importlib.metadata import version

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
    # AutoEP has just imported it, if it is there.
    outputs = sys.modules.get("transformers.utils.output_capturing")
    registry = getattr(outputs, "_CAN_RECORD_REGISTRY", {})
    try:
        registry.get("a class", None)
    except TypeError:
        raise NotImplementedError(
            f'"expert_parallel" (AutoEP) does not work with transformers {version("transformers")} '
            "for this model: DeepSpeed asks transformers' registry of outputs as a dictionary, and "
            f"it is none any longer ({error}). Install transformers=={NEWEST}, the newest release "
            "with which it works"
        ) from error
