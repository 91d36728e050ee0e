"""How a script's ranks start."""

import deepspeed
import pytest

from gradopt_ds.experiments.common import processes


class TwoDevices:
    """An accelerator whose current device is the first until somebody chooses."""

    current = 0

    def device_name(self) -> str:
        return "cuda"

    def set_device(self, index: int) -> None:
        self.current = index


def test_a_rank_takes_its_own_device_before_the_first_collective(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks on one device are an error of NCCL."""
    accelerator = TwoDevices()
    monkeypatch.setattr(processes, "get_accelerator", lambda: accelerator)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **_: None)
    monkeypatch.setattr(processes, "set_log_level_from_string", lambda level: None)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    processes.start_processes()
    assert accelerator.current == 1
