"""Real engines on two ranks: resuming from damaged checkpoints, and with another JSON."""

from typing import Any

import pytest

from tests.distributed.launch import launch
from tests.distributed.resuming_worker import GROUPS


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Tracebacks by group and test."""
    return {
        group: launch(
            "tests.distributed.resuming_worker", 2, str(tmp_path_factory.mktemp(group)), group
        )
        for group in GROUPS
    }


@pytest.mark.parametrize(
    ("group", "name"), [(group, test.__name__) for group in GROUPS for test in GROUPS[group]]
)
def test_resuming(failures: dict[str, dict[str, Any]], group: str, name: str) -> None:
    """What the function of this name says."""
    assert not failures[group][name], "\n".join(failures[group][name])
