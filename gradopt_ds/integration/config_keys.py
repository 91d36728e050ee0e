"""Keys of a DeepSpeed JSON that DeepSpeed would never look at, and so pass over in silence.

Most of its blocks refuse a key they do not know, but the top of the JSON and some blocks do not: a
misspelt ``"zero_optimisation"`` trains at stage 0. Which keys there are is asked of the installed
DeepSpeed itself: it parses a config that writes down what it is asked for.
"""

import functools
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from deepspeed.runtime.config import DeepSpeedConfig

TOP = ""
"""Stands for the top of the JSON where a block's name is meant."""

READ_KEY_BY_KEY = (
    "activation_checkpointing", "aio", "checkpoint", "data_types", "flops_profiler", "optimizer",
    "scheduler", "timers", "torch_autocast",
)  # fmt: skip
"""Blocks that refuse nothing by themselves."""

READ_ELSEWHERE: Mapping[str, frozenset[str]] = {
    # deepspeed.initialize; with the old `"zero_optimization": true`; transformers.
    TOP: frozenset({"data_parallel_size", "sequence_parallel_size", "allgather_size", "inference"}),
    # An earlier name, which DeepSpeed's documentation keeps and PyTorch Lightning writes.
    "aio": frozenset({"thread_count"}),
}
"""Valid keys of which the parsing of an ordinary config shows nothing."""

COMMENTS = ("_", "//")
"""A key that begins so is a comment."""


def refuse_unknown_config_keys(config: Mapping[str, Any]) -> None:
    """Refuse a DeepSpeed config with keys that DeepSpeed would ignore.

    Args:
        config: the JSON as a mapping.

    Raises:
        ValueError: names each such key and the valid one nearest to it.
    """
    problems = []
    for block, valid in known_keys().items():
        given = config.get(block) if block else config
        if not isinstance(given, Mapping):
            continue
        for key in given:
            if key not in valid and not str(key).startswith(COMMENTS):
                problems.append(_problem(block, str(key), valid))
    if problems:
        raise ValueError("; ".join(problems))


@functools.cache
def known_keys() -> Mapping[str, frozenset[str]]:
    """Block → keys that the installed DeepSpeed reads in it; ``TOP`` → those at the top."""
    blocks = {name: _Asked(type="Adam") for name in READ_KEY_BY_KEY}
    top = _Asked(train_micro_batch_size_per_gpu=1, **blocks)
    DeepSpeedConfig(top)
    return {
        name: frozenset(block.asked | READ_ELSEWHERE.get(name, frozenset()))
        for name, block in {TOP: top, **blocks}.items()
    }


def _problem(block: str, key: str, valid: frozenset[str]) -> str:
    place = f"{block}.{key}" if block else key
    near = get_close_matches(key, valid, n=1)
    blocks = [name for name, keys in known_keys().items() if key in keys]
    if near:
        return f"DeepSpeed has no key {place!r} and would ignore it: did you mean {near[0]!r}?"
    if blocks:
        where = f"in {blocks[0]!r}" if blocks[0] else "at the top"
        return f"DeepSpeed would ignore {place!r}: the key belongs {where}"
    return (
        f"DeepSpeed has no key {place!r} and would ignore it: remove it (a comment's key may "
        f"begin with {' or '.join(map(repr, COMMENTS))})"
    )


class _Asked(dict[str, Any]):
    """A mapping that writes down the keys it is asked for."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return _Keys(self)


class _Keys:
    """What ``keys()`` gives: ``in`` goes through the mapping, which writes it down."""

    def __init__(self, mapping: _Asked) -> None:
        self._mapping = mapping

    def __contains__(self, key: object) -> bool:
        return key in self._mapping

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapping)
