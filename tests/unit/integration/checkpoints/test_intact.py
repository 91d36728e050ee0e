"""A file that is not what was written is noticed, whichever byte it is."""

from pathlib import Path

import pytest
import torch

from gradopt_ds.integration.checkpoints.intact import DamagedFileError, require_intact

CONTENT = {"weights": torch.arange(6.0), "step": 3, "groups": [{"lr": 0.1}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save(CONTENT, path)
    return path


def test_an_intact_file_passes(file: Path) -> None:
    require_intact(file)


def test_a_flipped_byte_of_a_tensor_is_noticed(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[raw.find(CONTENT["weights"].numpy().tobytes()) + 9] ^= 0x10
    file.write_bytes(raw)
    assert not torch.equal(torch.load(file)["weights"], CONTENT["weights"])  # torch loads it
    with pytest.raises(DamagedFileError, match=r"mp_rank_00_model_states.pt .* is damaged"):
        require_intact(file)


def test_no_flipped_byte_changes_what_is_loaded(file: Path) -> None:
    """Every byte of the file, one after the other: noticed, or without effect."""
    original, unnoticed = file.read_bytes(), 0
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 0xFF
        file.write_bytes(changed)
        try:
            require_intact(file)
        except DamagedFileError:
            continue
        unnoticed += 1
        loaded = torch.load(file)
        assert torch.equal(loaded["weights"], CONTENT["weights"]), position
        assert (loaded["step"], loaded["groups"]) == (3, [{"lr": 0.1}]), position
    assert unnoticed < len(original)


def test_truncation_is_noticed(file: Path) -> None:
    original = file.read_bytes()
    for length in (*range(0, len(original), 16), *range(len(original) - 32, len(original))):
        file.write_bytes(original[:length])
        with pytest.raises(DamagedFileError, match=rf"mp_rank_00\S* \({length:,} bytes\)"):
            require_intact(file)


def test_an_absent_file_is_another_matter(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        require_intact(tmp_path / "nothing.pt")
