"""Gradients that are missing or no numbers, on real engines."""

import pytest

from tests.distributed.gradients_worker import TESTS
from tests.distributed.launch import launch


@pytest.mark.parametrize("ranks", [2, 3])
def test_gradients(ranks: int) -> None:
    """What each function in ``gradients_worker`` says."""
    passed = launch("tests.distributed.gradients_worker", ranks)["passed"]
    assert passed == [test.__name__ for test in TESTS]
