"""Which local files a run reads, and a digest of what is in them."""

import glob
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from gradopt_ds.experiments.common.errors import PretrainError

HUB = ("c4", "openwebtext")
"""Sources that are streamed from the hub."""
FORMATS = {"parquet": "parquet", "json": "json", "jsonl": "json", "txt": "text"}
"""Endings of files → the loader of ``datasets``."""

# Patterns of a local directory laid out like a hub data set, tried in this order.
_LAYOUTS: tuple[dict[str, str], ...] = (
    {"train": "en/c4-train.*.json.gz", "validation": "en/c4-validation.*.json.gz"},
    {"train": "c4-train.*.json.gz", "validation": "c4-validation.*.json.gz"},
    {"train": "**/train-*.parquet", "validation": "**/validation-*.parquet"},
    {"train": "**/*.parquet"},
    {"train": "**/*.json*"},
    {"train": "**/*.txt*"},
)
_DIGESTED = 2**30  # bytes of a run's data that are read for a digest
_BLOCK = 2**20


def local_files(data: str) -> dict[str, list[str]]:
    """Split → sorted files of the packaged corpus, of a local directory, file or glob.

    Raises:
        PretrainError: no file of a known kind there.
    """
    if data == "shakespeare":
        corpus = resources.files("gradopt_ds.experiments.pretrain.corpus") / "shakespeare.jsonl.gz"
        return {"train": [str(corpus)]}
    path = Path(data).expanduser()
    if path.is_dir():
        for layout in _LAYOUTS:
            splits = {split: _text_files(path.glob(pattern)) for split, pattern in layout.items()}
            if splits["train"]:
                return {split: files for split, files in splits.items() if files}
        raise PretrainError(f"{data} holds no .txt, .json, .jsonl or .parquet file: check --data")
    files = sorted(name for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if not files:
        raise PretrainError(
            f"--data {data!r} is no file, directory or glob that matches; the sources with a name "
            "are 'shakespeare', 'c4' and 'openwebtext'"
        )
    return {"train": files}


def kind(name: str) -> str:
    """Return the ending of a file's name, whether or not it is compressed."""
    return name.removesuffix(".gz").rpartition(".")[2]


def data_digest(data: str) -> str:
    """Return what stands for the content of ``--data`` in a run's definition.

    Returns:
        The name of a source on the hub; else a hash of the files' names, sizes and contents. Up to
        1 GiB is read: of larger data each file gives its beginning, its end, and blocks evenly
        spaced between them.

    Raises:
        PretrainError: as :func:`local_files`, or a file cannot be read.
    """
    if data in HUB:
        return data
    splits = local_files(data)
    return digest([file for split in sorted(splits) for file in splits[split]])


def digest(files: Sequence[str], limit: int = _DIGESTED) -> str:
    """Return a hash of files: names, sizes, and contents.

    Args:
        files: in the order that matters.
        limit: bytes that are read over all files, but at least two blocks of each.

    Raises:
        PretrainError: a file cannot be read.
    """
    hasher = hashlib.sha256()
    blocks = max(2, limit // _BLOCK // max(1, len(files)))
    for name in files:
        try:
            _add(hasher, Path(name), blocks)
        except OSError as error:
            raise PretrainError(f"cannot read {name}: {error.strerror}") from None
    return hasher.hexdigest()[:16]


def _add(hasher: "hashlib._Hash", path: Path, blocks: int) -> None:
    size = path.stat().st_size
    hasher.update(f"{path.name}\0{size}\0".encode())
    with path.open("rb") as stream:
        last = max(0, size - _BLOCK)
        whole = size <= blocks * _BLOCK
        starts = (
            range(0, size, _BLOCK) if whole else (last * i // (blocks - 1) for i in range(blocks))
        )
        for start in starts:
            stream.seek(start)
            hasher.update(stream.read(_BLOCK))


def _text_files(paths: Iterable[Path]) -> list[str]:
    return sorted(str(path) for path in paths if path.is_file() and kind(path.name) in FORMATS)
