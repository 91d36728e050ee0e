"""Real engines: skipped steps, schedulers, groups, resuming, refusals, traffic."""

from typing import Any

import pytest

from tests.distributed.behaviour_worker import TESTS
from tests.distributed.launch import launch


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def failures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Tracebacks by test, from one launch per world size."""
    return launch("tests.distributed.behaviour_worker", request.param)


@pytest.mark.parametrize("name", [test.__name__ for test in TESTS])
def test_engine(failures: dict[str, Any], name: str) -> None:
    """What the function of this name in ``behaviour_worker`` says."""
    assert not failures[name], "\n".join(failures[name])
