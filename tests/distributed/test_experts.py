"""DeepSpeed MoE layers on real engines, experts on every rank and on some."""

from typing import Any

import pytest

from tests.distributed.expert_worker import TESTS
from tests.distributed.launch import launch


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def failures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Tracebacks by test. On four ranks two sets of two share the experts, and cut them."""
    return launch("tests.distributed.expert_worker", request.param)


@pytest.mark.parametrize("name", [test.__name__ for test in TESTS])
def test_experts(failures: dict[str, Any], name: str) -> None:
    """What the function of this name in ``expert_worker`` says."""
    assert not failures[name], "\n".join(failures[name])
