"""Values of the DeepSpeed JSON that DeepSpeed passes over, or fails at only while it trains."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

from deepspeed.runtime.config import DeepSpeedConfig

from gradopt_ds.experiments.common.errors import PretrainError, reason

TRAIN = "train_batch_size"
MICRO = "train_micro_batch_size_per_gpu"
ACCUMULATION = "gradient_accumulation_steps"

COUNTS = (TRAIN, MICRO, ACCUMULATION, "steps_per_print")
"""Keys whose value is an integer of at least 1."""
_CLIPPING, _SEQUENCE_RANKS = "gradient_clipping", "sequence_parallel_size"


def refuse_wrong_values(config: Mapping[str, Any], where: object) -> None:
    """Refuse values that would train with something else than they say.

    Args:
        config: the JSON.
        where: what messages call it.

    Raises:
        PretrainError: names the key, its value and what is valid.
    """
    for problem in _problems(config):
        raise PretrainError(f"{where}: {problem}")


def refuse_unparsable(config: Mapping[str, Any], where: object) -> None:
    """Let DeepSpeed parse the complete JSON. After ``init_distributed``, which it asks for ranks.

    Raises:
        PretrainError: with DeepSpeed's reason.
    """
    try:
        DeepSpeedConfig(copy.deepcopy(dict(config)))  # which it writes into
    except Exception as error:  # a block of a wrong type ends in an error of any type
        raise PretrainError(f"{where}: DeepSpeed cannot read it: {reason(error)}") from None


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    for key in COUNTS:
        value = config.get(key, 1)
        if type(value) is not int or value < 1:
            yield f"{key!r} must be an integer of at least 1, got {value!r}"
    clipping = config.get(_CLIPPING, 0.0)
    # DeepSpeed does not clip at all by a bound that is negative or not a number.
    if type(clipping) not in (int, float) or not 0 <= clipping < math.inf:
        yield f"{_CLIPPING!r} must be a finite number of at least 0, got {clipping!r}"
    if config.get(_SEQUENCE_RANKS, 1) != 1:
        yield f"{_SEQUENCE_RANKS!r} is not supported: remove it"
    params = (config.get("optimizer") or {}).get("params")
    if not isinstance(params, Mapping | None):
        yield f"'optimizer.params' must be an object, got {params!r}"
