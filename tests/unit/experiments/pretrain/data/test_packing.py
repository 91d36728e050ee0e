import copy
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gradopt_ds.experiments.pretrain.data.packing import PackedSequences, Packer, pack

END = 0
# A document is a text of digits; each character becomes one token, never END.
texts = st.lists(st.text("123456789", max_size=20), min_size=1, max_size=30)
lengths = st.integers(2, 9)


def encode(text: str) -> list[int]:
    return [int(character) for character in text]


class Endless:
    """The documents again and again, with a position."""

    def __init__(self, documents: list[str]) -> None:
        self.documents = documents
        self.place = 0

    def __next__(self) -> str:
        self.place += 1
        return self.documents[(self.place - 1) % len(self.documents)]

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def stream(documents: list[str], length: int, buffer: int, seed: int) -> PackedSequences:
    return PackedSequences(Endless(documents), encode, END, length, buffer, seed)


@given(texts, lengths)
def test_packing_keeps_every_token_in_order(documents: list[str], length: int) -> None:
    packer = Packer(encode, END, length)
    sequences = [sequence for document in documents for sequence in packer.add(document)]
    assert all(sequence.shape == (length,) and sequence.dtype == np.int32 for sequence in sequences)
    joined = [int(token) for sequence in sequences for token in sequence] + packer.rest
    assert joined == [token for document in documents for token in [*encode(document), END]]
    assert len(packer.rest) < length


@given(texts, lengths, st.integers(0, 10))
def test_pack_gives_the_first_sequences_only(documents: list[str], length: int, limit: int) -> None:
    given = list(pack(documents, encode, END, length, limit))
    everything = [*"".join(text + "0" for text in documents)]
    assert len(given) == min(limit, len(everything) // length)
    joined = "".join(str(token) for sequence in given for token in sequence)
    assert joined == "".join(everything)[: len(joined)]


@given(texts, lengths, st.integers(1, 8), st.integers(0, 3))
def test_shuffling_loses_and_doubles_nothing(
    documents: list[str], length: int, buffer: int, seed: int
) -> None:
    shuffled = stream(documents, length, buffer, seed)
    drawn = [next(shuffled) for _ in range(25)]
    held = shuffled.state_dict()["buffer"]
    in_order = stream(documents, length, 1, 0)
    everything = [next(in_order) for _ in range(25 + buffer)]
    assert Counter(map(bytes, [*drawn, *held])) == Counter(map(bytes, everything))


@given(texts, lengths, st.integers(1, 8), st.integers(0, 30))
def test_resuming_anywhere_is_like_never_stopping(
    documents: list[str], length: int, buffer: int, stop: int
) -> None:
    unbroken = stream(documents, length, buffer, seed=7)
    for _ in range(stop):
        next(unbroken)
    state = copy.deepcopy(unbroken.state_dict())
    resumed = stream(documents, length, buffer, seed=99)
    resumed.load_state_dict(state)
    for _ in range(20):
        np.testing.assert_array_equal(next(unbroken), next(resumed))


def test_the_seed_alone_decides_the_order() -> None:
    documents = [str(number) * 3 for number in range(10, 60)]

    def first(seed: int) -> list[bytes]:
        sequences = stream(documents, 4, 16, seed)
        return [bytes(next(sequences)) for _ in range(30)]

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_a_later_epoch_comes_in_another_order() -> None:
    documents = ["12345678", "23456789", "34567891", "45678912"] * 4
    sequences = stream(documents, 9, 8, seed=0)
    epoch = len(documents)
    drawn = [bytes(next(sequences)) for _ in range(2 * epoch)]
    assert drawn[:epoch] != drawn[epoch:]
