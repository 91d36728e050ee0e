"""Where documents come from: one streaming ``datasets`` call for every source."""

import copy
import functools
import glob
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from datasets import IterableDataset, load_dataset

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain.settings import RunSettings

C4 = ("allenai/c4", "en")
OPENWEBTEXT = ("Skylion007/openwebtext", None)

# Patterns of a local directory laid out like a hub data set, tried in this order.
_LAYOUTS: tuple[dict[str, str], ...] = (
    {"train": "en/c4-train.*.json.gz", "validation": "en/c4-validation.*.json.gz"},
    {"train": "c4-train.*.json.gz", "validation": "c4-validation.*.json.gz"},
    {"train": "**/train-*.parquet", "validation": "**/validation-*.parquet"},
    {"train": "**/*.parquet"},
    {"train": "**/*.json*"},
    {"train": "**/*.txt*"},
)
_FORMATS = {"parquet": "parquet", "json": "json", "jsonl": "json", "txt": "text"}


def documents(settings: RunSettings, validation: bool) -> IterableDataset:
    """A stream of rows, of the validation split where the source has one.

    Raises:
        PretrainError: nothing found, an unknown kind of file, or the hub cannot be reached.
    """
    splits = _streams(settings.data)
    name = "validation" if validation and "validation" in splits else "train"
    # A copy, because an IterableDataset carries its own position.
    stream = copy.deepcopy(splits[name])
    columns = stream.column_names
    if columns is not None and settings.text_column not in columns:
        raise PretrainError(
            f"{settings.data} has no column {settings.text_column!r} but {sorted(columns)}: "
            "name the right one with --text-column"
        )
    return stream


def splits_by_hash(settings: RunSettings) -> bool:
    """Whether the source has no validation split, so that each document's hash decides."""
    return "validation" not in _streams(settings.data)


def held_out(text: str, share: float) -> bool:
    """Whether a document belongs to the validation split of a source that has none.

    Its own content decides, so the split is the same on every rank, in every epoch and file
    order, and a document that occurs twice never stands on both sides.
    """
    return zlib.crc32(text.encode()) < share * 2**32


@functools.cache  # asking the hub for its file list takes seconds
def _streams(data: str) -> Mapping[str, IterableDataset]:
    if data == "shakespeare":
        corpus = resources.files("gradopt_ds.experiments.pretrain.corpus") / "shakespeare.jsonl.gz"
        return _load("json", data_files={"train": [str(corpus)]})
    if data == "c4":
        return _load(*C4)
    if data == "openwebtext":
        return _load(*OPENWEBTEXT)
    files = local_files(data)
    kind = _format(files["train"])
    # A text file is many documents, parted by empty lines.
    options = {"sample_by": "paragraph"} if kind == "text" else {}
    return _load(kind, data_files=files, **options)


def _load(path: str, *name: str | None, **options: Any) -> Mapping[str, IterableDataset]:
    try:
        return load_dataset(path, *name, streaming=True, **options)
    except Exception as error:  # the hub's failures have no common type
        if options:
            raise PretrainError(f"cannot read {options['data_files']}: {error}") from error
        raise PretrainError(
            f"cannot stream {path} from the Hugging Face hub ({type(error).__name__}: {error}); "
            "give --data a local directory of the same layout, or 'shakespeare'"
        ) from error


def local_files(data: str) -> dict[str, list[str]]:
    """Split → sorted files of a local directory, file or glob.

    Raises:
        PretrainError: no file of a known kind there.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        for layout in _LAYOUTS:
            found = {split: _text_files(path.glob(pattern)) for split, pattern in layout.items()}
            if found["train"]:
                return {split: files for split, files in found.items() if files}
        raise PretrainError(f"{data} holds no .txt, .json, .jsonl or .parquet file: check --data")
    files = sorted(glob.glob(str(path), recursive=True))
    if not files:
        raise PretrainError(
            f"--data {data!r} is no file, directory or glob that matches; the sources with a name "
            "are 'shakespeare', 'c4' and 'openwebtext'"
        )
    return {"train": files}


def _text_files(paths: Any) -> list[str]:
    return sorted(str(one) for one in paths if one.is_file() and _kind(one.name) in _FORMATS)


def _kind(name: str) -> str:
    return name.removesuffix(".gz").rpartition(".")[2]


def _format(files: Sequence[str]) -> str:
    kinds = {_kind(one) for one in files}
    formats = {_FORMATS.get(kind, "") for kind in kinds}
    if len(formats) != 1 or "" in formats:
        raise PretrainError(
            f"cannot read files of kinds {sorted(kinds)} together: give --data one kind out of "
            f"{sorted(_FORMATS)} (each may be .gz)"
        )
    return formats.pop()
