"""Convert a checkpoint into one for any number of ranks: ``gradopt-ds convert IN OUT``."""

import argparse
import shutil
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

from gradopt_ds.checkpoint import (
    KEY,
    Cut,
    Record,
    State,
    as_whole,
    from_state,
    join,
    joined,
    parameter_state,
    to_state,
)
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
    for file in (*rank_files, *get_model_state_files(str(source)), *source.glob("layer_*")):
        require_intact(Path(file))
    stages = _stages(source, rank_files)
    tensor = stages[0][0].record.tensor
    cuts = tensor.cuts if tensor else {}
    whole = as_whole(joined([ranks[0].record for ranks in (stages[:1] if tensor else stages)]))
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    contents = {}
    for name, state in chain(_optimized(stages, cuts), _others(source, whole, cuts)):
        write_parameter(unfinished, name, state)
        contents[name] = state.keys
    write_common(unfinished, {**_common(stages, whole), CONTENTS: contents})
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


@dataclass(frozen=True)
class Saved:
    """What one rank has saved: the state of its wrapper, and the record in it."""

    state: Mapping[str, Any]
    record: Record


def _stages(source: Path, files: Sequence[str]) -> list[list[Saved]]:
    """Return what the ranks of each pipeline stage, or tensor-parallel rank, have saved, in order.

    Raises:
        ValueError: files are missing, or there are files of another run.
    """
    stages: dict[str, list[Saved]] = {}
    for file in files:
        state = _loaded(file)[OPTIMIZER_STATE_DICT]
        # DeepSpeed's "model-parallel rank" is the stage, or the tensor-parallel rank.
        stage = Path(file).name.partition("_mp_rank_")[2]
        stages.setdefault(stage, []).append(Saved(state, from_state(base_state(state))))
    record = next(iter(stages.values()))[0].record
    if record.tensor and record.pipeline_stages > 1:
        raise ValueError(
            f"{source} was saved by {record.tensor.size} tensor-parallel ranks on each of "
            f"{record.pipeline_stages} pipeline stages: it resumes on as many, without conversion"
        )
    wanted = record.ranks * (record.tensor.size if record.tensor else record.pipeline_stages)
    if len(files) != wanted or any(len(ranks) != record.ranks for ranks in stages.values()):
        raise ValueError(f"{source} was saved by {wanted} ranks and holds files of {len(files)}")
    return [stages[stage] for stage in sorted(stages)]


def _optimized(
    stages: Sequence[Sequence[Saved]], cuts: Mapping[str, Cut]
) -> Iterator[tuple[str, State]]:
    if cuts:
        for shards in zip(*map(_parameters, stages), strict=True):
            name = shards[0][0]
            yield name, join(name, [state for _, state in shards], cuts[name])
        return
    written: set[str] = set()
    for ranks in stages:
        for name, state in _parameters(ranks, written):  # of a tied layer the first stage's copy
            yield name, state
            written.add(name)


def _parameters(
    ranks: Sequence[Saved], written: Container[str] = ()
) -> Iterator[tuple[str, State]]:
    """Put together what the data-parallel ranks of one stage, or tensor-parallel rank, have."""
    holders = [holder for rank in ranks for holder in slice_states(rank.state, rank.record.slices)]
    for group in ranks[0].record.groups:
        for name, shape in group.parameters.items():
            if name not in written:
                yield name, parameter_state(name, shape, holders)


def _others(source: Path, record: Record, cuts: Mapping[str, Cut]) -> Iterator[tuple[str, State]]:
    """Return buffers and frozen parameters."""
    files = map(Path, get_model_state_files(str(source)))
    # An expert's file has its weights alone, and those are in the optimizer's state.
    models = [_loaded(file) for file in files if not file.match(EXPERT_FILES)]
    if models[0]["module"] is None:
        return  # Pipeline stages: what their files hold has no names of the whole model.
    module, optimized = models[0]["module"], {n for g in record.groups for n in g.parameters}
    if record.stage < 3:
        aliases = models[0]["shared_params"] or {}
        tensors = {n: t for n, t in module.items() if n not in optimized and n not in aliases}
    else:
        shapes = models[0][FROZEN_PARAM_SHAPES] or {}
        tensors = {name: module[name] for name in models[0][BUFFER_NAMES]}
        tensors |= {name: _joined(name, shape, models) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        shards = [model["module"][name] for model in models] if cuts else [tensor]
        states = [State({FP32_WEIGHT_KEY: shard}) for shard in shards]
        yield name, join(name, states, cuts.get(name, Cut(())))


def _joined(name: str, shape: torch.Size, models: Sequence[Mapping[str, Any]]) -> Tensor:
    chunks = [model[FROZEN_PARAM_FRAGMENTS][name] for model in models]
    return torch.cat(chunks)[: shape.numel()].view(shape)


def _common(stages: Sequence[Sequence[Saved]], whole: Record) -> dict[str, Any]:
    state = stages[0][0].state
    return {
        KEY: to_state(whole),
        "param_groups": _param_groups([ranks[0] for ranks in stages], whole),
        **{key: state[key] for key in SHARED if key in state},
    }


def _param_groups(stages: Sequence[Saved], whole: Record) -> list[dict[str, Any]]:
    if len(stages) == 1 or stages[0].record.tensor:
        groups: list[dict[str, Any]] = base_state(stages[0].state)["param_groups"]
        return groups
    by_rule = {
        group.get("rule", "elementwise"): group
        for saved in reversed(stages)
        for group in base_state(saved.state)["param_groups"]
    }
    return [by_rule[group.rule] for group in whole.groups]


def _write_model_files(source: Path, target: Path) -> None:
    """Return the engine's counters and schedule, for any ZeRO stage; the weights are elsewhere."""
    file = next(source / name for name in MODEL_FILES if (source / name).is_file())
    # DeepSpeed compares the number of pipeline stages with that of files: one is for all of them.
    state = {**_loaded(file), "module": {}, FROZEN_PARAM_FRAGMENTS: None, "mp_world_size": 1}
    for name in MODEL_FILES:
        torch.save(state, target / name)
