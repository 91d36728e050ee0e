"""Documents of any length → token sequences of one length, with nothing lost between them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Encode = Callable[[str], list[int]]


class Positioned(Protocol):
    """A stream of texts that can say where it stands."""

    def __next__(self) -> str: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last text returned."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the text at which ``state`` was taken."""
        ...


class Packer:
    """Join documents with an end-of-text token and cuts the join every ``length`` tokens."""

    def __init__(self, encode: Encode, end: int, length: int) -> None:
        self._encode = encode
        self._end = end
        self._length = length
        self.rest: list[int] = []  # tokens not yet given out; fewer than one sequence after `add`

    def add(self, text: str) -> list[Tokens]:
        """Return the sequences that ``text`` completes."""
        self.rest += self._encode(text)
        self.rest.append(self._end)
        whole = len(self.rest) // self._length * self._length
        cut = np.asarray(self.rest[:whole], dtype=np.int32).reshape(-1, self._length)
        self.rest = self.rest[whole:]
        return list(cut)


def pack(
    texts: Iterable[str], encode: Encode, end: int, length: int, limit: int
) -> Iterator[Tokens]:
    """Yield the first ``limit`` sequences of a finite stream, but no incomplete last one."""
    packer = Packer(encode, end, length)
    given = 0
    for text in texts:
        for sequence in packer.add(text):
            if given == limit:
                return
            given += 1
            yield sequence


class PackedSequences:
    """An endless stream of shuffled, packed sequences whose position is saved to the token.

    ``datasets`` does not save the content of its shuffle buffer, so the shuffling is
    done here, on sequences, in a buffer that is part of the state.

    Args:
        documents: endless texts of this rank.
        encode: text → token ids, no special tokens.
        end: id of the token that ends each document.
        length: tokens per sequence.
        buffer: sequences from which the next is drawn; 1 keeps the documents' order.
        seed: of the draws. The order depends on it and on the documents, on nothing else.
    """

    def __init__(
        self, documents: Positioned, encode: Encode, end: int, length: int, buffer: int, seed: int
    ) -> None:
        self._documents = documents
        self._packer = Packer(encode, end, length)
        self._ready: list[Tokens] = []  # packed, not yet in the buffer
        self._buffer: list[Tokens] = []
        self._size = buffer
        self._draw = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[Tokens]:
        return self

    def __next__(self) -> Tokens:
        while len(self._buffer) < self._size:
            self._buffer.append(self._in_order())
        place = int(self._draw.integers(self._size))
        drawn = self._buffer[place]
        self._buffer[place] = self._in_order()
        return drawn

    def _in_order(self) -> Tokens:
        while not self._ready:
            self._ready = self._packer.add(next(self._documents))[::-1]
        return self._ready.pop()

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides the sequences to come."""
        return {
            "documents": self._documents.state_dict(),
            "rest": list(self._packer.rest),
            "ready": [sequence.copy() for sequence in self._ready],
            "buffer": [sequence.copy() for sequence in self._buffer],
            "draw": self._draw.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state`` was taken."""
        self._documents.load_state_dict(state["documents"])
        self._packer.rest = list(state["rest"])
        self._ready = [sequence.copy() for sequence in state["ready"]]
        self._buffer = [sequence.copy() for sequence in state["buffer"]]
        self._draw.bit_generator.state = state["draw"]
