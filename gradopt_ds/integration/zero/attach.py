"""Hand the finished ZeRO wrapper's layout to the optimizer."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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
from gradopt_ds.integration.parallel.tensor import TensorParallel, ranks_of_stage
from gradopt_ds.integration.zero.slicing import ZeroSlice, holds_whole, whole_weights
from gradopt_ds.integration.zero.verification import verify
from gradopt_ds.matrices import ExchangeSettings, WholeMatrixMap
from gradopt_ds.optim import MatrixOptimizer, base_of
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.sharding import (
    Exchange,
    Layout,
    Matrix,
    Plan,
    ShardedMatrixMap,
    contiguous_layout,
    make_plan,
)


@dataclass(frozen=True)
class Shared:
    """The matrices of one tensor that the optimizer steps on, and the ranks that share them."""

    tensor: Tensor
    layout: Layout
    ranks: dist.ProcessGroup


def attach(
    engine: Any,
    optimizer: Optimizer,
    slices: Sequence[ZeroSlice],
    tensor: TensorParallel | None = None,
) -> str:
    """Tell a matrix optimizer where its matrices are.

    Args:
        engine: the engine, its optimizer wrapper in place.
        optimizer: the base optimizer inside that wrapper.
        slices: of this rank; none at stage 0.
        tensor: how ranks have cut the parameters before ZeRO, if they have.

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
    wrapper, groups = engine.optimizer, optimizer.param_groups
    is_whole = holds_whole(wrapper, optimizer)
    if is_whole and tensor is None:
        if type(wrapper) is FP16_UnfusedOptimizer:
            weights = whole_weights(wrapper, optimizer)
            blocks = {
                held: base.blocks[weight] for held, weight in weights if weight in base.blocks
            }
            base.matrix_map = WholeMatrixMap(blocks)
        return "ZeRO stage 0: every rank holds, and updates, whole matrices"
    names = {param: name for name, param in engine.module.named_parameters()}
    slices = [slice_ for slice_ in slices if groups[slice_.group]["rule"] == MATRIX]
    matrices = [names[weight] for weight in base.blocks if weight in names]
    _check_strategies(base.exchange, chain.from_iterable(of_all_stages(engine.module, matrices)))
    verify(slices, [slice_.layout(names) for slice_ in slices])
    if tensor is None:
        shared = _over_data_ranks(base, slices, names)
    else:
        weights = whole_weights(wrapper, optimizer) if is_whole else []
        # At stage 0 every data-parallel rank does the same: its tensor-parallel ranks are enough.
        ranks = tensor.group if is_whole else ranks_of_stage(engine)
        shared = _over_tensor_ranks(base, slices, weights, names, tensor, ranks)
    with same_end() if engine.pipeline_parallelism else nullcontext():
        plans = _plans(base, shared)
    base.matrix_map = ShardedMatrixMap(
        {
            part.tensor: Exchange(
                plan,
                part.ranks,
                base.exchange.wire_dtype,
                get_accelerator().current_device_name(),
            )
            for part, plan in zip(shared, plans, strict=True)
        }
    )
    here: Counter[str] = Counter(chain.from_iterable(plan.strategies for plan in plans))
    counts = sum(of_all_stages(engine.module, here), Counter())
    return _summary(type(base).__name__, counts) + _lost_steps(slices, groups)


def _over_data_ranks(
    base: MatrixOptimizer, slices: Sequence[ZeroSlice], names: Mapping[Tensor, str]
) -> list[Shared]:
    return [
        Shared(
            slice_.tensor,
            slice_.layout(names).split({names[w]: base.blocks[w] for w in slice_.weights}),
            slice_.process_group,
        )
        for slice_ in slices
    ]


def _check_strategies(settings: ExchangeSettings, matrices: Iterable[str]) -> None:
    names = list(matrices)
    for pattern in settings.exchange_strategy:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"exchange_strategy pattern {pattern!r} matches no matrix")


def _over_tensor_ranks(
    base: MatrixOptimizer,
    slices: Sequence[ZeroSlice],
    whole: Sequence[tuple[Tensor, Tensor]],
    names: Mapping[Tensor, str],
    tensor: TensorParallel,
    ranks: dist.ProcessGroup,
) -> list[Shared]:
    """Join what tensor-parallel ranks have. Collective.

    Args:
        base: its blocks are those of whole parameters.
        slices: of ZeRO.
        whole: at stage 0, what is stepped on and the weight that it is, in place of slices.
        names: of the weights.
        tensor: how the weights are cut.
        ranks: those that share the work.
    """
    held = [(slice_.tensor, slice_.layout(names), slice_.weights) for slice_ in slices]
    for stepped, weight in whole:
        if weight in base.blocks:
            flat = Matrix(names[weight], 1, weight.numel())
            held.append((stepped, contiguous_layout([flat], [0], weight.numel(), 1), [weight]))
    columns = [
        layout.split({names[w]: tensor.shards(w, base.blocks[w]) for w in weights})
        for _, layout, weights in held
    ]
    axes = [
        [tensor.cuts[weight].axis for weight in weights for _ in base.blocks[weight]]
        for _, _, weights in held
    ]
    return [
        Shared(stepped, layout, ranks)
        for (stepped, _, _), layout in zip(held, tensor.join(columns, axes), strict=True)
    ]


def _plans(base: MatrixOptimizer, shared: Sequence[Shared]) -> list[Plan]:
    plans = []
    loads: dict[dist.ProcessGroup, list[int]] = defaultdict(list)
    for part in shared:
        # Slices of one step share the load: the owners of the next are the idle ones.
        load = loads[part.ranks] or [0] * part.layout.world_size
        plan = make_plan(part.layout, base.oracle, base.exchange, load)
        loads[part.ranks] = [a + b for a, b in zip(load, plan.flops, strict=True)]
        _check_equal_on_all_ranks(plan.digest(), part.ranks)
        plans.append(plan)
    return plans


def _check_equal_on_all_ranks(digest: int, ranks: dist.ProcessGroup) -> None:
    device = get_accelerator().current_device_name()
    extremes = torch.tensor([digest, -digest], device=device)
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group=ranks)
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
