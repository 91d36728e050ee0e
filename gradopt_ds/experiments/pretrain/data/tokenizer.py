"""The run's tokenizer: given, or trained once on its own training text and cached."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import deepspeed.comm as dist
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gradopt_ds.experiments.common.errors import PretrainError, reason
from gradopt_ds.experiments.pretrain.data.documents import TrainingDocuments
from gradopt_ds.experiments.pretrain.settings import RunSettings

END_OF_TEXT = "<|endoftext|>"
TRAINING_CHARACTERS = 20_000_000  # of text a BPE is trained on; more hardly changes 4k-32k tokens
_ROUND_TO = 64  # vocabulary rows, so that the head's matmul has an aligned shape


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the rows of the embedding: the tokenizer's size rounded up to a multiple of 64."""
    return -(-len(tokenizer) // _ROUND_TO) * _ROUND_TO


def load(settings: RunSettings, rank: int, ranks: int) -> PreTrainedTokenizerBase:
    """Load or train the tokenizer of a run, the same on all ranks.

    Collective: every one of ``ranks`` ranks calls it. One rank needs no process group.

    Raises:
        PretrainError: the path or name cannot be loaded, or its tokenizer ends no text.
    """
    if settings.tokenizer is None:
        # The text travels, not the path: other hosts need not share the cache directory.
        trained = [_trained(settings) if rank == 0 else None]
        if ranks > 1:
            dist.broadcast_object_list(trained, src=0)
        assert trained[0] is not None
        return wrap(trained[0])
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.tokenizer)
    except Exception as error:  # broken files end in errors of many types
        raise PretrainError(f"--tokenizer {settings.tokenizer}: {reason(error)}") from error
    if tokenizer.eos_token_id is None:
        raise PretrainError(
            f"--tokenizer {settings.tokenizer} has no eos_token, which parts documents: choose "
            "another, or set one in its tokenizer_config.json"
        )
    return tokenizer


def wrap(tokenizer_json: str) -> PreTrainedTokenizerFast:
    """Return a transformers tokenizer from the text of a ``tokenizer.json`` trained here."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json),
        eos_token=END_OF_TEXT,
        model_max_length=int(1e30),  # documents are packed, so none is too long
    )


def _trained(settings: RunSettings) -> str:
    texts = TrainingDocuments(settings, rank=0, ranks=1)
    return cached(sample(texts), settings.vocab_size, settings.cache.expanduser())


def sample(documents: TrainingDocuments) -> list[str]:
    """Yield the texts of the first epoch, up to ``TRAINING_CHARACTERS``."""
    texts: list[str] = []
    size = 0
    for text in documents:
        if documents.epoch or size >= TRAINING_CHARACTERS:
            break
        texts.append(text)
        size += len(text)
    return texts


def cached(texts: list[str], vocab_size: int, directory: Path) -> str:
    """Make the ``tokenizer.json`` for these texts and size, or read it from ``directory``.

    Raises:
        PretrainError: ``directory`` cannot be read or written.
    """
    digest = hashlib.sha256(f"bpe {vocab_size}\0".encode())
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\0")
    path = directory / f"bpe-{vocab_size}-{digest.hexdigest()[:16]}.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)  # known to work before training takes its time
        if path.is_file():
            return path.read_text()
        trained = train(texts, vocab_size).to_str()
        # Renamed into place: a run killed here must not leave half a tokenizer to the next one.
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(trained)
        unfinished.replace(path)
    except OSError as error:
        raise PretrainError(
            f"--cache {directory}: {error.strerror}: {error.filename}: name a folder that can be "
            "written"
        ) from None
    return trained


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of at most ``vocab_size`` tokens, the end-of-text token included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    iterator: Iterator[str] = iter(texts)
    tokenizer.train_from_iterator(iterator, trainer)
    return tokenizer


class Encoder:
    """Text → token ids without special tokens; the ``encode`` of packing."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.end = int(tokenizer.eos_token_id)

    def __call__(self, text: str) -> list[int]:
        """Return the ids of one document."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids
