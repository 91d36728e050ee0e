"""Write down, beside the optimizer's state, what it holds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch.distributed as dist
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from torch import Tensor
from torch.optim import Optimizer

from gradopt_ds.checkpoint import (
    KEY,
    Cut,
    Fragment,
    Group,
    Record,
    Slice,
    TensorRanks,
    to_state,
)
from gradopt_ds.integration.parallel.experts import Place, places
from gradopt_ds.integration.parallel.pipeline import of_all_stages
from gradopt_ds.integration.parallel.tensor import TensorParallel
from gradopt_ds.integration.zero.slicing import ZeroSlice
from gradopt_ds.optim import GradPower, base_of
from gradopt_ds.optim.resumed_settings import settings_of


def record_in_state(
    engine: Any,
    optimizer: Optimizer,
    slices: Sequence[ZeroSlice],
    tensor: TensorParallel | None = None,
) -> None:
    """Have every state dict of an optimizer carry its record.

    Args:
        engine: the engine, its optimizer wrapper in place.
        optimizer: the base optimizer inside that wrapper.
        slices: of this rank; none at stage 0.
        tensor: how ranks have cut the parameters before ZeRO, if they have.
    """
    record = make_record(engine, optimizer, slices)
    plain = to_state(replace(record, tensor=_tensor_ranks(engine, tensor)))

    def add(_: Optimizer, state: dict[str, Any]) -> None:
        # The slices stay what they are; settings may have been changed since.
        groups = zip(plain["groups"], state["param_groups"], strict=True)
        now = [{**group, "settings": settings_of(saved)} for group, saved in groups]
        state[KEY] = {**plain, "groups": now}

    base_of(optimizer).register_state_dict_post_hook(add)


def make_record(engine: Any, optimizer: Optimizer, slices: Sequence[ZeroSlice]) -> Record:
    """Return what an optimizer holds on this rank (see :func:`record_in_state`). Collective."""
    placed = places(engine.module)
    weights = [
        [weight for slice_ in slices if slice_.group == index for weight in slice_.weights]
        if slices
        else _whole_weights(engine.optimizer, index)
        for index in range(len(optimizer.param_groups))
    ]
    here = {name: None for each in weights for w in each for name in placed[w].counterparts}
    stages = of_all_stages(engine.module, list(here))
    return Record(
        optimizer=_described(optimizer),
        stage=int(engine.zero_optimization_stage()),
        ranks=engine.seq_dp_world_size,
        groups=tuple(
            Group(
                group.get("rule", "elementwise"),
                {
                    name: placed[weight].shape
                    for weight in members
                    for name in placed[weight].counterparts
                },
                settings_of(group),
            )
            for group, members in zip(optimizer.param_groups, weights, strict=True)
        ),
        slices=tuple(_slice(slice_, placed) for slice_ in slices),
        pipeline_stages=len(stages),
        elsewhere=tuple(name for name in chain.from_iterable(stages) if name not in here),
    )


def _tensor_ranks(engine: Any, tensor: TensorParallel | None) -> TensorRanks | None:
    if tensor is None:
        return None
    cuts = {
        name: Cut(cut.shape, cut.axis, cut.widths)
        for name, param in engine.module.named_parameters()
        for cut in [tensor.cuts[param]]
    }
    return TensorRanks(tensor.rank, tensor.size, cuts)


def _whole_weights(wrapper: Any, group: int) -> list[Tensor]:
    # Half precision: the base optimizer's groups hold fp32 copies.
    groups = wrapper.fp16_groups if type(wrapper) is FP16_UnfusedOptimizer else None
    return list(groups[group] if groups else wrapper.param_groups[group]["params"])


def _slice(slice_: ZeroSlice, placed: Mapping[Tensor, Place]) -> Slice:
    rank = dist.get_rank(slice_.process_group)
    own = [placed[weight] for weight in slice_.weights]
    layout = slice_.layout({weight: placed[weight].name for weight in slice_.weights})
    pieces = [layout.piece(index, rank) for index in range(len(own))]
    fragments = tuple(
        Fragment(place.name, place.start + piece.matrix_start, piece.slice_start, piece.length)
        for place, piece in zip(own, pieces, strict=True)
        if piece is not None
    )
    return Slice(slice_.group, layout.slice_size, tuple(place.name for place in own), fragments)


def _described(optimizer: Optimizer) -> str:
    name = type(base_of(optimizer)).__name__
    return f"GradPower({name})" if isinstance(optimizer, GradPower) else name
