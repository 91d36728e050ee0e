"""A model by its name or by its file."""

from pathlib import Path

import pytest

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.paths import MODELS, find_model
from tests.conftest import ROOT


def test_a_name_or_a_path(tmp_path: Path) -> None:
    assert find_model(Path("1.3b")) == ROOT / "configs/models/1.3b.json" == MODELS / "1.3b.json"
    own = tmp_path / "own.json"
    own.write_text("{}")
    assert find_model(own) == own


def test_what_is_known_is_listed(tmp_path: Path) -> None:
    with pytest.raises(PretrainError, match="--model none: .*, and not one of 1.3b, 130m"):
        find_model(Path("none"))
    with pytest.raises(PretrainError, match=f"{tmp_path} holds no models: give a file's path"):
        find_model(Path("7b"), tmp_path)
