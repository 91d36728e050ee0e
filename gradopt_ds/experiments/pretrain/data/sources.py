"""Where documents come from: one streaming ``datasets`` call for every source."""

import copy
import functools
import traceback
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import IterableDataset, load_dataset, packaged_modules

from gradopt_ds.experiments.common.errors import PretrainError, reason
from gradopt_ds.experiments.pretrain.data.files import FORMATS, kind, local_files
from gradopt_ds.experiments.pretrain.settings import RunSettings

C4 = ("allenai/c4", "en")
OPENWEBTEXT = ("Skylion007/openwebtext", None)


def documents(settings: RunSettings, validation: bool) -> IterableDataset:
    """Return a stream of rows, of the validation split where the source has one.

    Raises:
        PretrainError: nothing found, an unknown kind of file, or the hub cannot be reached.
    """
    splits = _streams(settings.data)
    name = "validation" if validation and "validation" in splits else "train"
    # A copy, because an IterableDataset carries its own position.
    stream = copy.deepcopy(splits[name])
    columns = stream.column_names
    if columns is not None and settings.text_column not in columns:
        raise PretrainError(_no_column(settings, columns))
    return stream


def texts(rows: Iterator[Mapping[str, Any]], settings: RunSettings) -> Iterator[str]:
    """Return the texts of a stream's rows, empty ones left out.

    Raises:
        PretrainError: a row cannot be read, or its text is no text.
    """
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # every format fails in its own way, and so does the hub
            raise PretrainError(
                f"cannot read {file_of(error) or 'a file'} of --data {settings.data} "
                f"({type(error).__name__}: {reason(error)}): mend or remove the file"
            ) from error
        if row is None:
            return
        if settings.text_column not in row:
            raise PretrainError(_no_column(settings, row))
        text = row[settings.text_column]
        if text is not None and not isinstance(text, str):
            raise PretrainError(
                f"--data {settings.data} has {text!r:.60} where text is wanted, in the column "
                f"{settings.text_column!r}: name the right one with --text-column"
            )
        if text:
            yield text


def file_of(error: BaseException) -> str | None:
    """Find the file in which a reader of ``datasets`` failed; its messages give the row alone."""
    readers = str(Path(packaged_modules.__file__).parent)
    name = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(readers):
            name = frame.f_locals.get("file", name)
    return None if name is None else str(name)


def _no_column(settings: RunSettings, columns: Iterable[str]) -> str:
    return (
        f"{settings.data} has no column {settings.text_column!r} but {sorted(columns)}: "
        "name the right one with --text-column"
    )


def splits_by_hash(settings: RunSettings) -> bool:
    """Tell whether the source has no validation split, so that each document's hash decides."""
    return "validation" not in _streams(settings.data)


def held_out(text: str, share: float) -> bool:
    """Tell whether a document belongs to the validation split of a source that has none.

    Its own content decides, so the split is the same on every rank, in every epoch and file
    order, and a document that occurs twice never stands on both sides.
    """
    return zlib.crc32(text.encode()) < share * 2**32


@functools.cache  # asking the hub for its file list takes seconds
def _streams(data: str) -> Mapping[str, IterableDataset]:
    if data == "c4":
        return _load(*C4)
    if data == "openwebtext":
        return _load(*OPENWEBTEXT)
    files = local_files(data)
    loader = _format(files["train"])
    # A text file is many documents, parted by empty lines.
    options = {"sample_by": "paragraph"} if loader == "text" else {}
    return _load(loader, data_files=files, **options)


def _load(path: str, *name: str | None, **options: Any) -> Mapping[str, IterableDataset]:
    try:
        return load_dataset(path, *name, streaming=True, **options)
    except Exception as error:  # the hub's failures have no common type
        if options:
            files = [file for split in options["data_files"].values() for file in split]
            for empty in (file for file in files if not Path(file).stat().st_size):
                raise PretrainError(f"{empty} is empty: remove it, or check --data") from error
            some = ", ".join(files[:3]) + (", …" if len(files) > 3 else "")
            raise PretrainError(
                f"cannot read {file_of(error) or some} ({type(error).__name__}: {reason(error)}): "
                "mend or remove the file"
            ) from error
        raise PretrainError(
            f"cannot stream {path} from the Hugging Face hub ({type(error).__name__}: {error}); "
            "give --data a local directory of the same layout, or 'shakespeare'"
        ) from error


def _format(files: Sequence[str]) -> str:
    kinds = {kind(file) for file in files}
    formats = {FORMATS.get(ending, "") for ending in kinds}
    if len(formats) != 1 or "" in formats:
        raise PretrainError(
            f"cannot read files of kinds {sorted(kinds)} together: give --data one kind out of "
            f"{sorted(FORMATS)} (each may be .gz)"
        )
    return formats.pop()
