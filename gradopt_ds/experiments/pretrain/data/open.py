"""The data of one rank, from its settings in one call."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from gradopt_ds.experiments.pretrain.data import tokenizer
from gradopt_ds.experiments.pretrain.data.documents import TrainingDocuments
from gradopt_ds.experiments.pretrain.data.packing import PackedSequences
from gradopt_ds.experiments.pretrain.settings import RunSettings


@dataclass(frozen=True)
class Data:
    """Everything that training reads.

    Attributes:
        tokenizer: the same on all ranks.
        encode: text → token ids of one document.
        training: this rank's endless training sequences; its position can be saved.
        vocabulary: rows of the model's embedding.
    """

    tokenizer: PreTrainedTokenizerBase
    encode: tokenizer.Encoder
    training: PackedSequences
    vocabulary: int


def open_data(settings: RunSettings, rank: int, ranks: int) -> Data:
    """Open the run's data. Collective over ``ranks`` ranks; one rank needs no process group.

    Args:
        settings: source, tokenizer, lengths and seed.
        rank: data-parallel rank.
        ranks: data-parallel ranks; each document goes to exactly one of them.

    Raises:
        PretrainError: the source or the tokenizer does not fit; the message says what to change.
    """
    words = tokenizer.load(settings, rank, ranks)
    encode = tokenizer.Encoder(words)
    training = PackedSequences(
        TrainingDocuments(settings, rank, ranks),
        encode,
        encode.end,
        settings.sequence_length,
        settings.shuffle_buffer,
        seed=settings.seed,
    )
    return Data(words, encode, training, tokenizer.vocabulary(words))
