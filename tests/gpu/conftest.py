"""Tests marked ``gpu`` are skipped where torch sees no GPU, and say so."""

import pytest
import torch

REASON = "needs a GPU: torch.cuda.is_available() is False"


@pytest.hookimpl(tryfirst=True)  # before the jobs of distributed tests are collected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=REASON))
