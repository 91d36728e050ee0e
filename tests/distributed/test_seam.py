"""An optimizer's step while DeepSpeed wraps it: patches, schedulers, failures, copies, rates."""

from typing import Any

import pytest

from tests.distributed.launch import launch
from tests.distributed.seam_worker import TESTS


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def failures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Tracebacks by test, from one launch per world size."""
    return launch("tests.distributed.seam_worker", request.param)


@pytest.mark.parametrize("name", [test.__name__ for test in TESTS])
def test_engine(failures: dict[str, Any], name: str) -> None:
    """What the function of this name in ``seam_worker`` says."""
    assert not failures[name], "\n".join(failures[name])
