"""DeepSpeed MoE layers on real engines, experts on every rank and on some."""

import pytest

from tests.distributed.expert_worker import TESTS
from tests.distributed.launch import launch


@pytest.mark.parametrize("ranks", [2, 4])
def test_experts(ranks: int) -> None:
    """What each function in ``expert_worker`` says.

    On four ranks two sets of two share the experts, and cut them.
    """
    passed = launch("tests.distributed.expert_worker", ranks)["passed"]
    assert passed == [test.__name__ for test in TESTS]
