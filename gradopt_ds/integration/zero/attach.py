"""Hand the finished ZeRO wrapper's layout to the optimizer."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from torch import Tensor
from torch.optim import Optimizer

from gradopt_ds.integration.checkpoints.verdict import same_end
from gradopt_ds.integration.parallel.pipeline import of_all_stages
from gradopt_ds.integration.zero.slicing import ZeroSlice, holds_whole
from gradopt_ds.integration.zero.verification import verify
from gradopt_ds.matrices import Block, ExchangeSettings, WholeMatrixMap
from gradopt_ds.optim import MatrixOptimizer, base_of
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.sharding import Exchange, Plan, ShardedMatrixMap, make_plan


def attach(engine: Any, optimizer: Optimizer, slices: Sequence[ZeroSlice]) -> str:
    """Tell a matrix optimizer where its matrices are.

    Args:
        engine: the engine, its optimizer wrapper in place.
        optimizer: the base optimizer inside that wrapper.
        slices: of this rank; none at stage 0.

    Returns:
        A sentence for the log.

    Raises:
        RuntimeError: the wrapper's layout is not what it should be, or differs between ranks.
        ValueError: a weight holds NaN; an ``exchange_strategy`` matches no matrix, or cannot be
            followed.
    """
    base = base_of(optimizer)
    if not isinstance(base, MatrixOptimizer):
        return f"{type(base).__name__} is elementwise: no matrix is put together"
    wrapper = engine.optimizer
    if type(wrapper) is FP16_UnfusedOptimizer:
        base.matrix_map = WholeMatrixMap(_blocks_of_masters(wrapper, base.blocks))
    if holds_whole(wrapper, optimizer):
        return "ZeRO stage 0: every rank holds, and updates, whole matrices"
    names = {param: name for name, param in engine.module.named_parameters()}
    groups = optimizer.param_groups
    slices = [slice_ for slice_ in slices if groups[slice_.group]["rule"] == MATRIX]
    matrices = [names[weight] for slice_ in slices for weight in slice_.weights]
    _check_strategies(base.exchange, chain.from_iterable(of_all_stages(engine.module, matrices)))
    with same_end() if engine.pipeline_parallelism else nullcontext():
        plans = _plans(base, slices, names)
    base.matrix_map = ShardedMatrixMap(
        {
            slice_.tensor: Exchange(
                plan,
                slice_.process_group,
                base.exchange.wire_dtype,
                get_accelerator().current_device_name(),
            )
            for slice_, plan in zip(slices, plans, strict=True)
        }
    )
    here: Counter[str] = Counter(chain.from_iterable(plan.strategies for plan in plans))
    counts = sum(of_all_stages(engine.module, here), Counter())
    return _summary(type(base).__name__, counts) + _lost_steps(slices, groups)


def _blocks_of_masters(
    wrapper: FP16_UnfusedOptimizer, blocks: Mapping[Tensor, tuple[Block, ...]]
) -> dict[Tensor, tuple[Block, ...]]:
    """Return the blocks of the weights, as those of their fp32 copies."""
    return {
        master: blocks[weight]
        for weights, masters in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        for weight, master in zip(weights, masters, strict=True)
        if weight in blocks
    }


def _check_strategies(settings: ExchangeSettings, matrices: Iterable[str]) -> None:
    names = list(matrices)
    for pattern in settings.exchange_strategy:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"exchange_strategy pattern {pattern!r} matches no matrix")


def _plans(
    base: MatrixOptimizer,
    slices: Sequence[ZeroSlice],
    names: Mapping[Tensor, str],
) -> list[Plan]:
    plans = []
    loads: dict[dist.ProcessGroup, list[int]] = defaultdict(list)
    whole_weights = [slice_.layout(names) for slice_ in slices]
    verify(slices, whole_weights)
    for slice_, weights in zip(slices, whole_weights, strict=True):
        layout = weights.split({names[weight]: base.blocks[weight] for weight in slice_.weights})
        # Slices of one step share the load: the owners of the next are the idle ones.
        load = loads[slice_.process_group] or [0] * layout.world_size
        plan = make_plan(layout, base.oracle, base.exchange, load)
        loads[slice_.process_group] = [a + b for a, b in zip(load, plan.flops, strict=True)]
        _check_equal_on_all_ranks(plan.digest(), slice_)
        plans.append(plan)
    return plans


def _check_equal_on_all_ranks(digest: int, slice_: ZeroSlice) -> None:
    device = get_accelerator().current_device_name()
    extremes = torch.tensor([digest, -digest], device=device)
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group=slice_.process_group)
    if extremes[0] != -extremes[1]:
        raise RuntimeError(
            "the ranks planned different exchanges: do all run the same model, config and versions?"
        )


def _summary(algorithm: str, counts: Mapping[str, int]) -> str:
    local, owner, gram = counts["local"], counts["owner"], counts["gram"]
    return (
        f"{algorithm} on ZeRO slices: {local} of {local + owner + gram} matrices lie whole on one "
        f"rank, {owner} are cut and put together on one owner each"
        + (f", {gram} stay cut and share their Gram matrix" if gram else "")
    )


def _lost_steps(slices: Sequence[ZeroSlice], groups: Sequence[Mapping[str, Any]]) -> str:
    rounded_to_nearest = any(
        slice_.tensor.dtype == torch.bfloat16 and not groups[slice_.group]["stochastic_rounding"]
        for slice_ in slices
    )
    return (
        ". The weights have no fp32 masters: a step of less than 1/512 of a weight is lost; "
        '"stochastic_rounding": true in the params keeps it on average'
        if rounded_to_nearest
        else ""
    )
