"""Load a checkpoint: refuse what is not this optimizer's, cut a universal one to size."""

from collections.abc import Container, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.checkpoint.constants import FP32_WEIGHT_KEY, OPTIMIZER_STATE_DICT
from deepspeed.utils import groups
from torch import Tensor, nn

from gradopt_ds.checkpoint import Record, check_content, check_layout, from_state, slice_state
from gradopt_ds.integration.checkpoints.universal_files import (
    LOSS_SCALE,
    SHARED,
    read_common,
    read_parameter,
)
from gradopt_ds.integration.report import log_on_rank_0
from gradopt_ds.integration.zero.wrapper_state import base_state, replace_slices


def check_before_loading(engine: Any, folder: Path) -> None:
    """Stop before anything is overwritten. Collective; all ranks come to the same end.

    Args:
        engine: the engine that is about to load.
        folder: of one checkpoint, its tag included.

    Raises:
        ValueError: the checkpoint is not of this optimizer, of these parameters or of these
            slices, or its format is unknown.
    """
    problem = ""
    try:
        _check(engine, folder)
    except Exception as error:  # Whatever it is, the other ranks must not wait for this one.
        problem = str(error) or repr(error)
    found = torch.tensor(float(bool(problem)), device=get_accelerator().current_device_name())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    if found:
        raise ValueError(problem or f"another rank cannot load {folder}: see its message")


def load_universal(engine: Any, folder: Path, load_optimizer_states: bool) -> None:
    """Load this rank's slices, cut out of whole parameters, as ZeRO loads slices of its own.

    DeepSpeed's own loaders know Adam's state only, and at stage 3 write the settings of the first
    parameter group into all others.

    Args:
        engine: the engine, at ZeRO stage 1, 2 or 3.
        folder: of one universal checkpoint.
        load_optimizer_states: False: the weights alone.

    Raises:
        ValueError: the parameters of one slice have different state.
    """
    wrapper = engine.optimizer
    state = wrapper.state_dict()
    record, common = read_common(folder)
    slices = []
    for layout in from_state(base_state(state)).slices:
        here = dict.fromkeys(fragment.name for fragment in layout.fragments)
        names = list(here) or layout.parameters[:1]
        whole = {name: read_parameter(folder, name) for name in names}
        slices.append((layout, slice_state(layout, whole)))
    # A loss scale that adapts to fp16 has no business in bf16 or fp32.
    keeps_scale = common.get("dynamic_loss_scale") == state.get("dynamic_loss_scale")
    keys = [key for key in SHARED if keeps_scale or key not in LOSS_SCALE]
    saved = {key: common[key] for key in keys if key in common and key in state}
    # wrapper.load_state_dict takes the states of all ranks, and looks at its own.
    states: list[Any] = [None] * dist.get_world_size(wrapper.dp_process_group)
    states[dist.get_rank(wrapper.dp_process_group)] = replace_slices(
        {**state, **saved}, slices, common["param_groups"]
    )
    wrapper.load_state_dict(
        state_dict_list=states,
        load_optimizer_states=load_optimizer_states,
        load_from_fp32_weights=True,
    )
    optimized = {name for group in record.groups for name in group.parameters}
    _load_other_tensors(engine.module, optimized, folder)


def _check(engine: Any, folder: Path) -> None:
    current = from_state(base_state(engine.optimizer.state_dict()))
    if engine.load_universal_checkpoint():
        check_content(read_common(folder)[0], current)
        return
    # Rank 0's file is there whatever the number of ranks was.
    first = _saved_record(_file(engine, folder, 0))
    check_content(first, current)
    if first.ranks != current.ranks:
        check_layout(first, current)
    check_layout(_saved_record(_file(engine, folder, _dp_rank(engine))), current)


def _saved_record(file: Path) -> Record:
    if not file.is_file():
        raise ValueError(
            f"there is no {file}: it was saved at another ZeRO stage, in another precision, or not "
            "completely"
        )
    # Mapped: of all the tensors not a byte is read.
    saved = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
    state = saved.get(OPTIMIZER_STATE_DICT) or saved.get("optimizer")
    if state is None:
        raise ValueError(f"{file} holds no optimizer's state: it was saved at another ZeRO stage")
    return from_state(base_state(state))


def _file(engine: Any, folder: Path, dp_rank: int) -> Path:
    """Where DeepSpeed has put the optimizer's state of a rank."""
    parent, tag = str(folder.parent), folder.name
    if not engine.zero_optimization() and engine.has_moe_layers:
        largest = groups._get_max_expert_size_name()
        rank = groups._get_expert_parallel_rank(largest)
        return Path(engine._get_optimizer_ckpt_name(parent, tag, rank))
    if not engine.zero_optimization():
        return Path(engine._get_ckpt_name(parent, tag))
    half = engine.bfloat16_enabled()
    return Path(engine._get_rank_zero_ckpt_name(parent, tag, 0, dp_rank, half))


def _dp_rank(engine: Any) -> int:
    return dist.get_rank(engine.optimizer.dp_process_group) if engine.zero_optimization() else 0


def _load_other_tensors(module: nn.Module, optimized: Container[str], folder: Path) -> None:
    """Frozen parameters and buffers, which DeepSpeed's universal loading leaves as they are."""
    absent = []
    for name, tensor in chain(module.named_parameters(), _persistent_buffers(module)):
        if name in optimized:
            continue
        file = folder / "zero" / name / f"{FP32_WEIGHT_KEY}.pt"
        if not file.is_file():
            absent.append(name)
            continue
        saved = read_parameter(folder, name).elements[FP32_WEIGHT_KEY]
        cut = hasattr(tensor, "ds_id")
        with torch.no_grad(), deepspeed.zero.GatheredParameters([tensor], 0, enabled=cut):
            if not cut or dist.get_rank() == 0:
                tensor.copy_(saved)
    if absent:
        log_on_rank_0(f"not in the checkpoint, and left as they are: {', '.join(absent)}")


def _persistent_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, child in module.named_modules():
        for name, buffer in child.named_buffers(recurse=False):
            if name not in child._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer
