"""Real engines: resuming, other numbers of ranks, refusals, DeepSpeed's own tools."""

from typing import Any

import pytest

from tests.distributed.checkpoint_worker import ALONE, ELSEWHERE
from tests.distributed.launch import launch

LAUNCHES = (
    ("alone on 2 ranks", 2, "alone", ALONE),
    ("alone on 3 ranks", 3, "alone", ALONE),
    ("on 3 ranks from 2", 3, "elsewhere", ELSEWHERE),
    ("on 2 ranks from 3", 2, "elsewhere", ELSEWHERE),
    ("on 1 rank from 2 and 3", 1, "elsewhere", ELSEWHERE),
)
"""In this order: the later ones load what the earlier have saved."""


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Tracebacks by launch and test."""
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    return {
        label: launch("tests.distributed.checkpoint_worker", ranks, folder, group)
        for label, ranks, group, _ in LAUNCHES
    }


@pytest.mark.parametrize(
    ("label", "name"),
    [(label, test.__name__) for label, _, _, tests in LAUNCHES for test in tests],
)
def test_checkpoints(failures: dict[str, dict[str, Any]], label: str, name: str) -> None:
    """What the function of this name in ``checkpoint_worker`` says."""
    assert not failures[label][name], "\n".join(failures[label][name])
