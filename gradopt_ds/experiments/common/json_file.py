"""A JSON object from a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.common.errors import PretrainError


def load(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        PretrainError: the file cannot be read, holds something else, or a key twice; the message
            says where it is broken.
    """
    try:
        config = json.loads(path.read_text(), object_pairs_hook=_object)
    except OSError as error:
        raise PretrainError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise PretrainError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise PretrainError(f"{path} must hold a JSON object, not a {type(config).__name__}")
    return config


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice, as DeepSpeed does; Python would take its last value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"it has {', '.join(map(repr, twice))} twice in one object")
    return values
