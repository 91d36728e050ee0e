"""All that training reads, from one call."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gradopt_ds.experiments.pretrain.data.open import Data, open_data
from gradopt_ds.experiments.pretrain.settings import RunSettings

Make = Callable[..., RunSettings]
TEXTS = [f"document {number} says {' '.join(['word'] * (5 + number))}" for number in range(40)]


@pytest.fixture
def corpus(tmp_path: Path) -> dict[str, object]:
    """A text file; its documents are parted by empty lines, and none may be held out."""
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(TEXTS))
    return {
        "data": str(path),
        "validation_share": 1e-9,
        "vocab_size": 300,
        "sequence_length": 16,
        "shuffle_buffer": 1,
    }


def text_of(data: Data, sequences: int) -> str:
    ids = [int(token) for _ in range(sequences) for token in next(data.training)]
    return str(data.tokenizer.decode(ids))


def test_one_process_reads_the_text_in_its_order(make: Make, corpus: dict[str, object]) -> None:
    """Without a process group; packed sequences, put together, are the documents."""
    data = open_data(make(**corpus), rank=0, ranks=1)
    joined = "".join(f"{text}<|endoftext|>" for text in TEXTS)
    read = text_of(data, 60)
    assert len(read) > 500
    assert joined.startswith(read)
    assert data.vocabulary == 320  # 300 tokens, in rows of 64


def test_each_rank_has_its_own_documents(
    make: Make, corpus: dict[str, object], tmp_path: Path
) -> None:
    open_data(make(**corpus), 0, 1).tokenizer.save_pretrained(tmp_path / "given")
    settings = make(**corpus, tokenizer=str(tmp_path / "given"))
    read = [text_of(open_data(settings, rank, 2), 30) for rank in range(2)]
    seen = [{i for i, text in enumerate(TEXTS) if text in own} for own in read]
    assert all(len(own) > 5 for own in seen)
    assert not seen[0] & seen[1]
