"""Fixtures of the tests that launch pre-training."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradopt_ds.experiments.common.shared_memory import free_shared_memory
from tests.e2e.runs import MODEL, PORTS


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the model, and later the runs and their tokenizer."""
    directory = tmp_path_factory.mktemp("pretrain")
    (directory / "model.json").write_text(json.dumps(MODEL))
    return directory


@pytest.fixture(scope="module", autouse=True)
def shared_memory() -> Iterator[None]:
    """Is given back, also by launches that were killed."""
    yield
    for port in PORTS:
        free_shared_memory(port)
