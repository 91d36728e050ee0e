from pathlib import Path

import pytest

from gradopt_ds.experiments.pretrain.data import tokenizer

TEXTS = ["the quick brown fox jumps over the lazy dog " * 3, "to be or not to be, é and 漢字"]


def test_trained_once_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokenizer.cached(TEXTS, 300, tmp_path)
    monkeypatch.setattr(tokenizer, "train", lambda *_: pytest.fail("trained a second time"))
    assert tokenizer.cached(TEXTS, 300, tmp_path) == first
    assert len(list(tmp_path.iterdir())) == 1


def test_other_text_or_size_is_another_tokenizer(tmp_path: Path) -> None:
    tokenizer.cached(TEXTS, 300, tmp_path)
    tokenizer.cached(TEXTS, 290, tmp_path)
    tokenizer.cached(TEXTS[:1], 300, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_every_text_comes_back(tmp_path: Path) -> None:
    words = tokenizer.wrap(tokenizer.cached(TEXTS, 300, tmp_path))
    encode = tokenizer.Encoder(words)
    for text in [*TEXTS, "unseen \t\n bytes: \x00 ñ 😀"]:
        ids = encode(text)
        assert words.decode(ids, clean_up_tokenization_spaces=False) == text
        assert encode.end not in ids


def test_the_vocabulary_is_rounded_up_to_64(tmp_path: Path) -> None:
    words = tokenizer.wrap(tokenizer.cached(TEXTS, 300, tmp_path))
    size = tokenizer.vocabulary(words)
    assert size % 64 == 0
    assert len(words) <= size < len(words) + 64
