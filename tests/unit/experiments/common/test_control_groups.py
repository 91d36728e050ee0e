from pathlib import Path

import pytest

from gradopt_ds.experiments.common import host_memory
from gradopt_ds.experiments.common.control_groups import allowed_bytes

GIB = 2**30


def group(folder: Path, names: tuple[str, str, str], limit: object, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def listed(folder: Path, lines: str) -> Path:
    path = folder / "own"
    path.write_text(lines)
    return path


def test_the_tightest_group_above_a_process_counts(tmp_path: Path) -> None:
    own = listed(tmp_path, "0::/slurm/job\n")
    group(tmp_path / "slurm/job", V2, "max", GIB, 0)
    assert allowed_bytes(own, tmp_path) is None
    group(tmp_path / "slurm", V2, 8 * GIB, 3 * GIB, GIB)
    assert allowed_bytes(own, tmp_path) == 6 * GIB
    group(tmp_path / "slurm/job", V2, 4 * GIB, GIB, 0)
    assert allowed_bytes(own, tmp_path) == 3 * GIB


def test_a_container_whose_path_is_the_hosts(tmp_path: Path) -> None:
    own = listed(tmp_path, "4:cpu,memory:/docker/0123\n3:cpuset:/docker/0123\n0::/\n")
    group(tmp_path / "memory", V1, 2 * GIB, GIB, GIB // 2)
    assert allowed_bytes(own, tmp_path) == 3 * GIB // 2


def test_what_can_be_had_is_the_smaller_of_host_and_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "allowed_bytes", lambda: None)
    whole = host_memory.available_bytes()
    monkeypatch.setattr(host_memory, "allowed_bytes", lambda: 1000)
    assert host_memory.available_bytes() == 1000 < whole
