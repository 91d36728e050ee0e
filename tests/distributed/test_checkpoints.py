"""Real engines: resuming, other numbers of ranks, refusals, DeepSpeed's own tools."""

from typing import Any

import pytest

from tests.distributed.checkpoint_worker import GROUPS
from tests.distributed.launch import launch

LAUNCHES = {
    "2 ranks": (2, "here", "refusals"),
    "3 ranks, also from 2": (3, "here", "elsewhere"),
    "2 ranks from 3": (2, "elsewhere"),
    "1 rank from 2": (1, "elsewhere"),
}
"""In this order: the later ones load what the earlier have saved."""


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Tracebacks by launch and test."""
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    return {
        label: launch("tests.distributed.checkpoint_worker", ranks, folder, *groups)
        for label, (ranks, *groups) in LAUNCHES.items()
    }


@pytest.mark.parametrize(
    ("label", "name"),
    [
        (label, test.__name__)
        for label, (_, *groups) in LAUNCHES.items()
        for group in groups
        for test in GROUPS[group]
    ],
)
def test_checkpoints(failures: dict[str, dict[str, Any]], label: str, name: str) -> None:
    """What the function of this name in ``checkpoint_worker`` says."""
    assert not failures[label][name], "\n".join(failures[label][name])
