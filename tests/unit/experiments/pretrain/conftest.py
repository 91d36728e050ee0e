import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradopt_ds.experiments.pretrain.settings import RunSettings

ROOT = Path(__file__).parents[4]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., RunSettings]:
    """Settings of a run in a temporary directory, with anything overridden."""
    deepspeed, model = tmp_path / "deepspeed.json", tmp_path / "model.json"
    deepspeed.write_text(json.dumps({"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}))
    model.write_text((ROOT / "configs/models/tiny.json").read_text())

    def settings(**changes: Any) -> RunSettings:
        own = {
            "deepspeed_config": deepspeed,
            "model": model,
            "output": tmp_path / "out",
            "cache": tmp_path / "cache",
        }
        return RunSettings(**{**own, **changes})

    return settings
