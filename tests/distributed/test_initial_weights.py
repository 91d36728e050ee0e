"""What real engines say of NaN, misplaced slices and default weights at the start."""

import pytest

from tests.distributed.initial_weights_worker import TESTS
from tests.distributed.launch import launch


@pytest.mark.parametrize("ranks", [2, 3])
def test_initial_weights(ranks: int) -> None:
    """What each function in ``initial_weights_worker`` says."""
    passed = launch("tests.distributed.initial_weights_worker", ranks)["passed"]
    assert passed == [test.__name__ for test in TESTS]
