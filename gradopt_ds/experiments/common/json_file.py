"""A JSON object from a file."""

import json
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.common.errors import PretrainError


def load(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        PretrainError: the file cannot be read, or holds something else; the message says where it
            is broken.
    """
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise PretrainError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # no JSON, or no text
        raise PretrainError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise PretrainError(f"{path} must hold a JSON object, not a {type(config).__name__}")
    return config
