"""Load a checkpoint: refuse what is not this optimizer's, cut a universal one to size."""

from collections.abc import Container, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.checkpoint.constants import FP32_WEIGHT_KEY, OPTIMIZER_STATE_DICT
from torch import Tensor, nn

from gradopt_ds.checkpoint import (
    Slice,
    State,
    TensorRanks,
    as_whole,
    check_content,
    check_layout,
    check_stages,
    from_state,
    groups_of,
    seen_from,
    shard,
    slice_state,
)
from gradopt_ds.checkpoint.compare import WEIGHTS_ALONE
from gradopt_ds.integration.checkpoints.files import Wanted, files_to_verify, optimizer_file
from gradopt_ds.integration.checkpoints.intact import require_intact
from gradopt_ds.integration.checkpoints.universal_files import (
    CONTENTS,
    LOSS_SCALE,
    SHARED,
    read_common,
    read_parameter,
)
from gradopt_ds.integration.checkpoints.verdict import AbsentFileError, same_end
from gradopt_ds.integration.log import log_on_rank_0
from gradopt_ds.integration.parallel.experts import is_spread
from gradopt_ds.integration.zero.wrapper_state import base_state, replace_slices
from gradopt_ds.optim import MatrixOptimizer, base_of
from gradopt_ds.optim.facts import whole_shape
from gradopt_ds.optim.resumed_settings import configured_settings, refuse_another_rule


def check_before_loading(engine: Any, folder: Path, wanted: Wanted) -> None:
    """Stop before anything is overwritten. Collective; all ranks come to the same end.

    Args:
        engine: the engine that is about to load.
        folder: of one checkpoint, its tag included.
        wanted: what of it.

    Raises:
        ValueError: a file is damaged or absent; the checkpoint is not of this optimizer, of these
            parameters or of these slices; a setting differs that may not; its format is unknown.
    """
    with same_end():
        _check(engine, folder, wanted)


def load_universal(engine: Any, folder: Path, load_optimizer_states: bool) -> None:
    """Load this rank's slices, cut out of whole parameters, as ZeRO loads slices of its own.

    DeepSpeed's own loaders know Adam's state only, and at stage 3 write the settings of the first
    parameter group into all others.

    Args:
        engine: the engine, at ZeRO stage 1, 2 or 3.
        folder: of one universal checkpoint.
        load_optimizer_states: False: the weights alone.

    Raises:
        ValueError: the parameters of one slice have different state; a file is missing; another
            tensor of the model has another shape. On all ranks alike.
    """
    wrapper = engine.optimizer
    state = wrapper.state_dict()
    record, common = read_common(folder)
    if CONTENTS not in common:
        log_on_rank_0(
            f"{folder} was converted by an earlier version, which did not list what it wrote: "
            "files that are missing can go unnoticed"
        )
    optimized = {name for group in record.groups for name in group.parameters}
    current = from_state(base_state(state))
    param_groups = common["param_groups"]
    if engine.pipeline_parallelism:
        param_groups = [param_groups[index] for index in groups_of(record, current)]
    with same_end():
        slices = [
            (layout, _slice_state(folder, layout, current.tensor)) for layout in current.slices
        ]
        others = list(_other_tensors(engine, optimized, folder, current.tensor))
    # A loss scale that adapts to fp16 has no business in bf16 or fp32.
    keeps_scale = common.get("dynamic_loss_scale") == state.get("dynamic_loss_scale")
    keys = [key for key in SHARED if keeps_scale or key not in LOSS_SCALE]
    saved = {key: common[key] for key in keys if key in common and key in state}
    # wrapper.load_state_dict takes the states of all ranks, and looks at its own.
    states: list[Any] = [None] * dist.get_world_size(wrapper.dp_process_group)
    states[dist.get_rank(wrapper.dp_process_group)] = replace_slices(
        {**state, **saved}, slices, param_groups
    )
    wrapper.load_state_dict(
        state_dict_list=states,
        load_optimizer_states=load_optimizer_states,
        load_from_fp32_weights=True,
    )
    for tensor, whole in others:
        cut = hasattr(tensor, "ds_id")
        with torch.no_grad(), deepspeed.zero.GatheredParameters([tensor], 0, enabled=cut):
            if not cut or dist.get_rank() == 0:
                tensor.copy_(whole)


def _check(engine: Any, folder: Path, wanted: Wanted) -> None:
    universal = engine.load_universal_checkpoint()
    if (folder / "zero").is_dir() and not universal:
        raise ValueError(
            f"{folder} is a universal checkpoint: load it at ZeRO stage 1, 2 or 3 with "
            '"checkpoint": {"load_universal": true} in the DeepSpeed JSON'
        )
    if wanted.joins_slices(engine):
        _refuse_another_latest(folder)
    files = files_to_verify(engine, folder, wanted)
    for file in files:
        if file.is_file():
            require_intact(file)
    if universal or wanted.state:
        _check_record(engine, folder, wanted)
    for file in files:
        if not file.is_file():
            raise AbsentFileError(f"there is no {file}: the checkpoint is not complete")


def _check_record(engine: Any, folder: Path, wanted: Wanted) -> None:
    universal = engine.load_universal_checkpoint()
    state = engine.optimizer.state_dict()
    if universal:
        saved = read_common(folder)[0]
    else:
        saved_state = _saved_state(optimizer_file(engine, folder))
        refuse_another_precision(saved_state, state)
        saved = from_state(base_state(saved_state))
    current = from_state(base_state(state))
    if universal and engine.pipeline_parallelism:
        saved = seen_from(saved, current)
    elif not universal:
        check_stages(saved, current)
    check_content(saved, as_whole(current) if universal else current)
    if wanted.state:
        optimizer = base_of(engine.basic_optimizer)
        refuse_another_rule(
            [group.settings for group in saved.groups],
            configured_settings(optimizer),
            optimizer.fixed_settings if isinstance(optimizer, MatrixOptimizer) else (),
        )
    if not universal:
        check_layout(saved, current)


def _refuse_another_latest(folder: Path) -> None:
    latest = folder.parent / "latest"
    named = latest.read_text().strip() if latest.is_file() else None
    if named != folder.name:
        raise ValueError(
            f"at ZeRO stage 3 DeepSpeed loads the weights alone from the tag that {latest} names, "
            f"which is {named!r}, and not from {folder.name!r}: write {folder.name!r} into it"
        )


def refuse_another_precision(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse another precision: at stage 0 half precision has a wrapper state, and fp32 has none.

    Args:
        saved: the state of the optimizer in the file.
        current: that of the engine's.

    Raises:
        ValueError: one of them has the wrapper's.
    """
    then, now = (
        "bf16 or fp16" if "dynamic_loss_scale" in state else "fp32" for state in (saved, current)
    )
    if then != now:
        raise ValueError(
            f"this checkpoint was saved at ZeRO stage 0 in {then}, and the engine trains in {now}: "
            f'set "bf16" and "fp16" back, or {WEIGHTS_ALONE}'
        )


def _saved_state(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise AbsentFileError(
            f"there is no {file}: it was saved at another ZeRO stage, in another precision, or not "
            "completely"
        )
    # Mapped: of all the tensors not a byte is read.
    saved = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
    state: Mapping[str, Any] | None = saved.get(OPTIMIZER_STATE_DICT) or saved.get("optimizer")
    if state is None:
        raise ValueError(f"{file} holds no optimizer's state: it was saved at another ZeRO stage")
    return state


def _slice_state(folder: Path, layout: Slice, tensor: TensorRanks | None) -> State:
    here = dict.fromkeys(fragment.name for fragment in layout.fragments)
    names = list(here) or layout.parameters[:1]
    return slice_state(layout, {name: _read(folder, name, tensor) for name in names})


def _read(folder: Path, name: str, tensor: TensorRanks | None) -> State:
    """Read a parameter or buffer, as far as this rank has it."""
    whole = read_parameter(folder, name)
    if tensor is None or name not in tensor.cuts:
        return whole
    return shard(whole, tensor.cuts[name], tensor.rank)


def _other_tensors(
    engine: Any,
    optimized: Container[str],
    folder: Path,
    tensor_ranks: TensorRanks | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield frozen parameters and buffers, which DeepSpeed's universal loading leaves as they are.

    Yields:
        Each, and what was saved of it, whole.

    Raises:
        ValueError: another shape was saved; or they are experts', or of a model with pipeline
            stages, of which they are not saved.
    """
    module: nn.Module = engine.module
    absent = []
    for name, tensor in chain(module.named_parameters(), _persistent_buffers(module)):
        if name in optimized:
            continue
        if is_spread(tensor):
            raise ValueError(
                f"{name!r} is a frozen parameter of experts, and a universal checkpoint does not "
                "hold those: resume on as many ranks as saved it, without conversion"
            )
        file = folder / "zero" / name / f"{FP32_WEIGHT_KEY}.pt"
        if not file.is_file():
            absent.append(name)
            continue
        saved = _read(folder, name, tensor_ranks).elements[FP32_WEIGHT_KEY]
        if saved.shape != (shape := whole_shape(tensor)):
            raise ValueError(f"{file} has shape {tuple(saved.shape)} and {name!r} {tuple(shape)}")
        yield tensor, saved
    if absent and engine.pipeline_parallelism:
        raise ValueError(
            "frozen parameters and buffers of a model with pipeline stages are not in a universal "
            f"checkpoint, and could not be restored: {', '.join(absent)}"
        )
    if absent:
        log_on_rank_0(f"not in the checkpoint, and left as they are: {', '.join(absent)}")


def _persistent_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, child in module.named_modules():
        for name, buffer in child.named_buffers(recurse=False):
            if name not in child._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer
