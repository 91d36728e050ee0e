"""Convert a checkpoint into one for any number of ranks: ``gradopt-ds convert IN OUT``."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from deepspeed.checkpoint.constants import (
    BUFFER_NAMES,
    FP32_WEIGHT_KEY,
    FROZEN_PARAM_FRAGMENTS,
    FROZEN_PARAM_SHAPES,
    OPTIMIZER_STATE_DICT,
)
from deepspeed.utils.zero_to_fp32 import get_model_state_files, get_optim_files
from torch import Tensor

from gradopt_ds.checkpoint import KEY, Record, State, from_state, parameter_state, to_state
from gradopt_ds.integration.checkpoints.intact import require_intact
from gradopt_ds.integration.checkpoints.universal_files import (
    CONTENTS,
    SHARED,
    write_common,
    write_parameter,
)
from gradopt_ds.integration.zero.wrapper_state import base_state, slice_states

MODEL_FILES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
"""Where the engine looks for its counters: at stages 1 and 2, and at stage 3."""

EXPERT_FILES = "layer_*_expert_*"
"""What the engine calls the files of experts beside them."""


def convert(source: Path, target: Path) -> None:
    """Write a ZeRO checkpoint in DeepSpeed's universal layout.

    One parameter at a time is in memory. ``target`` appears when it is complete, and is named in
    ``latest_universal`` beside it.

    Args:
        source: folder of one checkpoint, its tag included.
        target: folder to write.

    Raises:
        ValueError: the checkpoint is damaged or not complete, is not of ZeRO stage 1 to 3, was not
            saved by an optimizer of this library, or by an earlier version from experts that were
            spread over ranks.
        FileExistsError: ``target`` exists.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists: remove it, or write to another folder")
    rank_files = _rank_files(source)
    for file in (*rank_files, *get_model_state_files(str(source))):
        require_intact(Path(file))
    ranks = [_loaded(file)[OPTIMIZER_STATE_DICT] for file in rank_files]
    records = [from_state(base_state(state)) for state in ranks]
    if len(ranks) != records[0].ranks:
        raise ValueError(
            f"{source} was saved by {records[0].ranks} ranks and holds files of {len(ranks)}"
        )
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    contents = {}
    for name, state in chain(_optimized(ranks, records), _others(source, records[0])):
        write_parameter(unfinished, name, state)
        contents[name] = state.keys
    write_common(unfinished, {**_common(ranks[0], records[0]), CONTENTS: contents})
    _write_model_files(source, unfinished)
    unfinished.rename(target)
    (target.parent / "latest_universal").write_text(target.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert by command line; the exit status is 1 where that is impossible."""
    parser = argparse.ArgumentParser(prog="gradopt-ds convert", description=__doc__)
    parser.add_argument(
        "source", type=Path, help="a checkpoint's folder, such as run/global_step100"
    )
    parser.add_argument("target", type=Path, help="the folder to write, best beside it")
    chosen = parser.parse_args(arguments)
    try:
        convert(chosen.source, chosen.target)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {chosen.target}, and {chosen.target.parent / 'latest_universal'} names it")
    return 0


def _rank_files(source: Path) -> list[str]:
    try:
        files: list[str] = get_optim_files(str(source))
    except FileNotFoundError:
        raise ValueError(
            f"{source} holds no slices: is it a checkpoint's own folder, and of ZeRO stage 1, 2 or "
            "3? One of stage 0 loads on any number of ranks as it is"
        ) from None
    return files


def _loaded(file: str | Path) -> dict[str, Any]:
    # Mapped, so that only what is used is read.
    loaded: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
    return loaded


def _optimized(
    ranks: Sequence[Mapping[str, Any]], records: Sequence[Record]
) -> Iterator[tuple[str, State]]:
    holders = [
        holder
        for state, record in zip(ranks, records, strict=True)
        for holder in slice_states(state, record.slices)
    ]
    for group in records[0].groups:
        for name, shape in group.parameters.items():
            yield name, parameter_state(name, shape, holders)


def _others(source: Path, record: Record) -> Iterator[tuple[str, State]]:
    """Return buffers and frozen parameters."""
    files = map(Path, get_model_state_files(str(source)))
    # An expert's file has its weights alone, and those are in the optimizer's state.
    models = [_loaded(file) for file in files if not file.match(EXPERT_FILES)]
    module, optimized = models[0]["module"], {n for g in record.groups for n in g.parameters}
    if record.stage < 3:
        aliases = models[0]["shared_params"] or {}
        tensors = {n: t for n, t in module.items() if n not in optimized and n not in aliases}
    else:
        shapes = models[0][FROZEN_PARAM_SHAPES] or {}
        tensors = {name: module[name] for name in models[0][BUFFER_NAMES]}
        tensors |= {name: _joined(name, shape, models) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        yield name, State({FP32_WEIGHT_KEY: tensor})


def _joined(name: str, shape: torch.Size, models: Sequence[Mapping[str, Any]]) -> Tensor:
    chunks = [model[FROZEN_PARAM_FRAGMENTS][name] for model in models]
    return torch.cat(chunks)[: shape.numel()].view(shape)


def _common(state: Mapping[str, Any], record: Record) -> dict[str, Any]:
    without_slices = Record(record.optimizer, record.stage, record.ranks, record.groups)
    return {
        KEY: to_state(without_slices),
        "param_groups": base_state(state)["param_groups"],
        **{key: state[key] for key in SHARED if key in state},
    }


def _write_model_files(source: Path, target: Path) -> None:
    """Return the engine's counters and schedule, for any ZeRO stage; the weights are elsewhere."""
    file = next(source / name for name in MODEL_FILES if (source / name).is_file())
    state = {**_loaded(file), "module": {}, FROZEN_PARAM_FRAGMENTS: None}
    for name in MODEL_FILES:
        torch.save(state, target / name)
