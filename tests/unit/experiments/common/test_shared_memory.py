"""A /dev/shm that is too small for DeepSpeed's CPU communication, as in many containers."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradopt_ds.experiments.common import shared_memory
from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.shared_memory import free_shared_memory, require_shared_memory

MIB = 2**20


@pytest.mark.parametrize(("ranks", "fits"), [(1, False), (2, False), (0, True)])
def test_dockers_default_of_64_mib(monkeypatch: pytest.MonkeyPatch, ranks: int, fits: bool) -> None:
    monkeypatch.setattr(
        shared_memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * MIB)
    )
    says = f"has 64 MiB left.* takes {66 * ranks} for {ranks} rank.*--shm-size"
    with nullcontext() if fits else pytest.raises(PretrainError, match=says):
        require_shared_memory(ranks)


def test_the_buffers_of_one_launch_are_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    for name in ("a_127.0.0.1_29500_0", "b_127.0.0.1_29501_0"):
        (tmp_path / f"deepspeed_allreduce_buffer_{name}").touch()
    free_shared_memory(29500)
    assert [file.name for file in tmp_path.iterdir()] == [
        "deepspeed_allreduce_buffer_b_127.0.0.1_29501_0"
    ]
