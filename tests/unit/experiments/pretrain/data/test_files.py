import os
from pathlib import Path

import pytest

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain.data.files import data_digest, digest

MIB = 2**20


def test_one_byte_changes_the_digest_and_the_clock_does_not(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"x" * 3 * MIB)
    before = data_digest(str(path))
    os.utime(path, (1, 1))
    assert data_digest(str(path)) == before
    for place in (0, MIB + 5, 3 * MIB - 1):
        content = bytearray(b"x" * 3 * MIB)
        content[place] = 0
        path.write_bytes(content)
        assert data_digest(str(path)) != before


def test_of_large_files_ends_and_places_between_are_read(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(bytes(9 * MIB))
    before = digest([str(path)], limit=3 * MIB)
    with path.open("r+b") as stream:
        for place in (0, 4 * MIB + 1, 9 * MIB - 1):
            stream.seek(place)
            stream.write(b"x")
            stream.flush()
            assert digest([str(path)], limit=3 * MIB) != before
            stream.seek(place)
            stream.write(b"\0")
            stream.flush()
    assert digest([str(path)], limit=3 * MIB) == before


def test_every_file_of_a_directory_counts(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    before = data_digest(str(tmp_path))
    (tmp_path / "c.txt").write_text("c")
    assert data_digest(str(tmp_path)) != before


def test_a_source_on_the_hub_stands_for_itself() -> None:
    assert data_digest("c4") == "c4"


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(PretrainError, match="cannot read .*gone.txt: No such file"):
        digest([str(tmp_path / "gone.txt")])
