"""What defines a run, and what has changed in it since a checkpoint was saved.

The definition is one flat mapping, saved with every checkpoint. What decides the weights' shapes or
the order of the data can never change under a checkpoint. What changes the trace (optimizer,
schedule, batch, precision) may differ only with ``--accept-changes``. Others are printed.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradopt_ds.experiments.common.command_line import flag
from gradopt_ds.experiments.common.json_file import load
from gradopt_ds.experiments.pretrain.data.files import data_digest
from gradopt_ds.experiments.pretrain.settings import RunSettings

Definition = Mapping[str, Any]

_ORDER = ("text_column", "validation_share", "sequence_length", "shuffle_buffer", "seed")
_CONTENT, _VOCABULARY, _RANKS, _MODEL = (
    "content of --data",
    "the tokenizer",
    "ranks",
    "model JSON: ",
)
_FIXED = {*map(flag, _ORDER), _CONTENT, _VOCABULARY, _RANKS}
_STEPS, _WARMUP, _SCHEDULE = "--steps", "--warmup-steps", "--schedule"
_COMPUTATION = ("checkpointing", "attention", "compile")
_SAID = {"--validate-every", "--validation-sequences", *map(flag, _COMPUTATION)}
_JSON = "DeepSpeed JSON: "
_SAID_BLOCKS = (
    "activation_checkpointing", "aio", "checkpoint", "comet", "comms_logger", "csv_monitor",
    "dump_state", "flops_profiler", "gradient_accumulation_steps", "log_level", "memory_breakdown",
    "tensorboard", "timers", "train_micro_batch_size_per_gpu", "wall_clock_breakdown", "wandb",
    "zero_optimization",
)  # fmt: skip
"""Blocks and keys of the DeepSpeed JSON that change no more than the order of additions."""
_ABSENT = object()


@dataclass(frozen=True)
class Changes:
    """Sentences "NAME was OLD and is NEW".

    Attributes:
        fixed: what can never change.
        trace: what changes only where the user accepts it.
        said: what may change.
        past: of that, what the steps before were taken with, so that no settings give the whole
            run again.
    """

    fixed: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    past: list[str] = field(default_factory=list)


def definition(
    settings: RunSettings, config: Mapping[str, Any], ranks: int, vocabulary: Mapping[str, int]
) -> Definition:
    """Return what defines a run, by the names under which a user sets it.

    Args:
        settings: of the run.
        config: the complete DeepSpeed JSON.
        ranks: data-parallel ranks.
        vocabulary: of the tokenizer.
    """
    words = repr(sorted(vocabulary.items())).encode()
    outside = {"steps_per_print", "tensorboard"}  # this run sets them itself
    json = {key: value for key, value in config.items() if key not in outside}
    return {
        **{flag(name): getattr(settings, name) for name in (*_ORDER, *_COMPUTATION)},
        _CONTENT: data_digest(settings.data),
        _VOCABULARY: hashlib.sha256(words).hexdigest()[:16],
        _RANKS: ranks,
        _STEPS: settings.steps,
        _SCHEDULE: settings.schedule,
        _WARMUP: settings.warmup,
        "--validate-every": settings.validation_interval,
        "--validation-sequences": settings.validation_sequences,
        **{_MODEL + key: value for key, value in _flat(load(settings.model))},
        **{_JSON + key: value for key, value in _flat(json)},
    }


def changes(saved: Definition, now: Definition, step: int) -> Changes:
    """Return what has changed between a checkpoint and now.

    Args:
        saved: the definition in the checkpoint.
        now: that of the run that is to go on.
        step: optimizer steps done at the checkpoint.
    """
    result = Changes()
    said = _SAID | (_harmless_steps(saved, now, step))
    for name in [*saved, *(name for name in now if name not in saved)]:
        old, new = saved.get(name, _ABSENT), now.get(name, _ABSENT)
        if old != new:
            sentence = f"{name} was {_shown(old)} and is {_shown(new)}"
            if name in _FIXED or name.startswith(_MODEL):
                result.fixed.append(sentence)
            elif name in said or _is_said_in_json(name):
                result.said.append(sentence)
                if name == _WARMUP:
                    result.past.append(sentence)
            else:
                result.trace.append(sentence)
    return result


def _harmless_steps(saved: Definition, now: Definition, step: int) -> set[str]:
    """Name the steps if they may differ: a constant schedule, past its warm-up, knows no end."""
    both = (saved, now)
    if any(run[_SCHEDULE] != "constant" or run[_WARMUP] > step for run in both):
        return set()
    return {_STEPS, _WARMUP}


def _is_said_in_json(name: str) -> bool:
    key = name.removeprefix(_JSON)
    return key != name and key.split(".")[0] in _SAID_BLOCKS and key != "zero_optimization.stage"


def _shown(value: object) -> str:
    return "not set" if value is _ABSENT else repr(value)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
