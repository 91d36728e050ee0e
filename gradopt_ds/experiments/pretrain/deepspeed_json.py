"""The DeepSpeed JSON of a run: read, overridden from the command line, batch sizes completed."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from deepspeed.runtime.config import DEEPSPEED_OPTIMIZERS
from torch.optim import Optimizer

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.json_file import load
from gradopt_ds.experiments.pretrain.json_values import (
    ACCUMULATION,
    MICRO,
    TRAIN,
    refuse_wrong_values,
)
from gradopt_ds.experiments.pretrain.settings import RunSettings
from gradopt_ds.integration.config_keys import refuse_unknown_config_keys
from gradopt_ds.integration.registry import GRAD_POWER, OPTIMIZERS, canonical_name


def read(settings: RunSettings, ranks: int) -> dict[str, Any]:
    """Return the complete DeepSpeed config of a run on ``ranks`` data-parallel ranks.

    Raises:
        PretrainError: the JSON cannot be read, has a key that DeepSpeed would ignore, names no
            optimizer that there is, has a value that is out of range, carries a scheduler, has
            checkpoints written in the background, asks for tensor parallelism, or its batch sizes
            do not fit the ranks.
    """
    config = load(settings.deepspeed_config)
    for item in settings.override:
        override(config, item)
    _check_keys(config, settings)
    refuse_wrong_values(config, settings.deepspeed_config)
    if "scheduler" in config:
        raise PretrainError(
            f"{settings.deepspeed_config} has a 'scheduler' block, but the schedule of this run is "
            "set by --schedule and --warmup-steps: remove the block"
        )
    if _has_decoupled_writer(config) or config.get("datastates_ckpt", False) is not False:
        raise PretrainError(
            f"{settings.deepspeed_config} has checkpoints written in the background ('decoupled', "
            "'datastates_ckpt'); a run killed meanwhile would resume from half of one: remove the "
            "key"
        )
    _refuse_tensor_parallelism(config, settings)
    config.update(batch_sizes(config, settings, ranks))
    # One line per step on the progress bar is enough; DeepSpeed would print its own every ten.
    config.setdefault("steps_per_print", settings.steps + 1)
    if settings.tensorboard:
        config["tensorboard"] = {
            "enabled": True,
            "output_path": str(settings.output),
            "job_name": "tensorboard",
        }
    return config


def _has_decoupled_writer(config: Mapping[str, Any]) -> bool:
    block = config.get("checkpoint")
    writer = block.get("writer") if isinstance(block, Mapping) else None
    return isinstance(writer, Mapping) and bool(writer.get("decoupled"))


def _refuse_tensor_parallelism(config: Mapping[str, Any], settings: RunSettings) -> None:
    block = config.get("tensor_parallel")
    size = block.get("autotp_size") if isinstance(block, Mapping) else None
    if isinstance(size, int) and size > 1:
        raise PretrainError(
            f"{settings.deepspeed_config} has an autotp_size of {size}, and here every rank reads "
            "sequences of its own, while tensor-parallel ranks must read the same: remove the "
            "block, or train with a script of yours (docs/parallelism.md)"
        )


def _check_keys(config: Mapping[str, Any], settings: RunSettings) -> None:
    try:
        refuse_unknown_config_keys(config)
    except ValueError as error:
        raise PretrainError(f"{settings.deepspeed_config}: {error}") from None
    block = config.get("optimizer")
    name = block.get("type") if isinstance(block, Mapping) else None
    if not isinstance(name, str):
        raise PretrainError(
            f'{settings.deepspeed_config} names no optimizer: add "optimizer": {{"type": …}}, with '
            f"one of {', '.join(optimizer_names())}"
        )
    if not is_known_optimizer(name):
        spellings = {known.lower(): known for known in reversed(optimizer_names())}
        near = get_close_matches(name.lower(), spellings, n=1)
        guess = f" (did you mean {spellings[near[0]]}?)" if near else ""
        raise PretrainError(
            f"{settings.deepspeed_config} names the optimizer {name!r}, which there is not{guess}: "
            f"valid are {', '.join(optimizer_names())}"
        )


def optimizer_names() -> list[str]:
    """Return all that ``"optimizer": {"type": …}`` may be: this library's, DeepSpeed's, torch's."""
    return sorted({*OPTIMIZERS, GRAD_POWER, *DEEPSPEED_OPTIMIZERS, *_torch_names()})


def is_known_optimizer(name: str) -> bool:
    """Tell whether DeepSpeed builds something by this name: its own in any case of letters."""
    return (
        canonical_name(name) is not None
        or name.lower() in DEEPSPEED_OPTIMIZERS
        or name in _torch_names()
    )


def _torch_names() -> list[str]:
    return [
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type)
        and issubclass(value, Optimizer)
        # LBFGS needs a closure and SparseAdam sparse gradients; DeepSpeed gives neither.
        and name not in ("Optimizer", "LBFGS", "SparseAdam")
    ]


def override(config: dict[str, Any], item: str) -> None:
    """Set ``a.b.c=VALUE`` in ``config`` in place; a value that is not JSON is a string."""
    path, _, text = item.partition("=")
    *parents, last = path.split(".")
    node = config
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise PretrainError(f"override {item!r}: {parent!r} is no object in the DeepSpeed JSON")
    try:
        node[last] = json.loads(text)
    except json.JSONDecodeError:
        node[last] = text


def batch_sizes(config: dict[str, Any], settings: RunSettings, ranks: int) -> dict[str, int]:
    """Return DeepSpeed's three batch keys for ``ranks`` ranks, each consistent with the others.

    The command line beats the JSON. Of the JSON's own numbers the train batch is kept, because it
    is part of the mathematics, and the accumulation follows from it.
    """
    given = settings.train_batch, settings.micro_batch, settings.accumulation
    train, micro, accumulation = given
    if micro is not None and accumulation is not None:
        wanted = micro * accumulation * ranks
        if train not in (None, wanted):
            raise PretrainError(
                f"--micro-batch {micro} x --accumulation {accumulation} x {ranks} ranks is "
                f"{wanted}, not --train-batch {train}: leave one of the three out"
            )
        return {TRAIN: wanted, MICRO: micro, ACCUMULATION: accumulation}
    train = train or config.get(TRAIN)
    if train is None:
        micro = micro or config.get(MICRO, 1)
        accumulation = accumulation or config.get(ACCUMULATION, 1)
        return {TRAIN: micro * accumulation * ranks, MICRO: micro, ACCUMULATION: accumulation}
    if accumulation is None:
        micro = micro or config.get(MICRO) or train // (ranks * config.get(ACCUMULATION, 1))
        accumulation = train // (micro * ranks) if micro else 0
    else:
        micro = train // (accumulation * ranks)
    if micro * accumulation * ranks != train:
        raise PretrainError(
            f"a train batch of {train} sequences cannot be cut into micro batches on {ranks} ranks "
            f"(micro batch {micro}, accumulation {accumulation}): set --micro-batch and "
            "--accumulation, or another --train-batch"
        )
    return {TRAIN: train, MICRO: micro, ACCUMULATION: accumulation}
