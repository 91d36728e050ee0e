"""A rank that dies inside the exchange: the others stop with an error, the checkpoint is whole."""

from pathlib import Path

import pytest

from tests.distributed.fault_worker import TIMEOUT
from tests.distributed.launch import launch


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_rank_dies_inside_the_exchange(world_size: int, tmp_path: Path) -> None:
    """Within the timeout of the process group, and the run can be taken up again."""
    result = launch("tests.distributed.fault_worker", world_size, "die", str(tmp_path))
    assert result["error"], "the survivors went on without rank 1"
    assert result["seconds"] < TIMEOUT.total_seconds() + 5
    assert launch("tests.distributed.fault_worker", world_size, "resume", str(tmp_path))["intact"]
