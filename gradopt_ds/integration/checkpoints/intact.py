"""Whether a file is what was once written: the checksums that ``torch.save`` writes."""

import zipfile
from pathlib import Path

import torch

DIRECTORY = 0x10
"""The attribute of an entry that torch takes for a directory, and returns memory as it finds it."""


class DamagedFileError(ValueError):
    """A file of a checkpoint is not what was written."""


def require_intact(file: Path) -> None:
    """Read a file once, block by block, and compare the checksum of everything in it.

    ``torch.save`` writes a zip archive with a CRC-32 of every tensor; ``torch.load`` does not look
    at them.

    Raises:
        DamagedFileError: the file was truncated or changed, or cannot be read; with its name.
        FileNotFoundError: there is no such file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            marked = [e.filename for e in archive.infolist() if e.external_attr & DIRECTORY]
            changed = [*marked, archive.testzip()][0]
        if changed is None:
            # Torch minds bytes of the archive's own that zipfile does not. No tensor is read.
            torch.load(file, map_location="meta", mmap=True, weights_only=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # A changed byte in the archive's directory may raise anything.
        raise DamagedFileError(
            f"{file} ({_size(file)}) is damaged: {error or repr(error)}. It was cut short or "
            "changed after it was saved, or saved without checksums: load another checkpoint"
        ) from error
    if changed is not None:
        raise DamagedFileError(
            f"{file} ({_size(file)}) is damaged: the checksum of {changed!r} in it is wrong. Bytes "
            "were changed after it was saved, or torch.serialization.set_crc32_options was off "
            "then: load another checkpoint"
        )


def _size(file: Path) -> str:
    return f"{file.stat().st_size:,} bytes"
