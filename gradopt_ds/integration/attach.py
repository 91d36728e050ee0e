"""Hand the finished ZeRO wrapper's layout to the optimizer."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from torch import Tensor
from torch.optim import Optimizer

from gradopt_ds.integration.zero_layouts import GroupShard, read_shards, verify
from gradopt_ds.optim import GradPower, MatrixOptimizer
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.sharding import Exchange, Plan, ShardedMatrixMap, make_plan


def attach(engine: Any, optimizer: Optimizer) -> str:
    """Tell a matrix optimizer where its matrices are.

    Args:
        engine: the engine, its optimizer wrapper in place.
        optimizer: the base optimizer inside that wrapper.

    Returns:
        A sentence for the log.

    Raises:
        RuntimeError: the wrapper's layout is unknown, is not what it should be, or differs
            between ranks.
    """
    base = optimizer.base if isinstance(optimizer, GradPower) else optimizer
    if not isinstance(base, MatrixOptimizer):
        return f"{type(base).__name__} is elementwise: no matrix is put together"
    wrapper = engine.optimizer
    if wrapper is optimizer or type(wrapper) is FP16_UnfusedOptimizer:
        return "ZeRO stage 0: every rank holds, and updates, whole matrices"
    names = {param: name for name, param in engine.module.named_parameters()}
    exchanges: dict[Tensor, Exchange] = {}
    for group, shard in zip(optimizer.param_groups, read_shards(wrapper), strict=True):
        if group["rule"] == MATRIX:
            exchanges[shard.slice] = Exchange(_plan(base, shard, names), shard.process_group)
    base.matrix_map = ShardedMatrixMap(exchanges)
    plans = [exchange.plan for exchange in exchanges.values()]
    cut = sum(len(plan.cut) for plan in plans)
    total = sum(len(plan.owners) for plan in plans)
    return (
        f"{type(base).__name__} on ZeRO slices: {total - cut} of {total} matrices lie whole on one "
        f"rank, {cut} are cut and put together on one owner each"
    )


def _plan(base: MatrixOptimizer, shard: GroupShard, names: Mapping[Tensor, str]) -> Plan:
    layout = shard.layout(names)
    verify(shard, layout)
    plan = make_plan(layout, base.oracle.flops)
    _check_equal_on_all_ranks(plan.digest(), shard)
    return plan


def _check_equal_on_all_ranks(digest: int, shard: GroupShard) -> None:
    extremes = torch.tensor([digest, -digest], device=shard.slice.device)
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group=shard.process_group)
    if extremes[0] != -extremes[1]:
        raise RuntimeError(
            "the ranks planned different exchanges: do all run the same model, config and versions?"
        )
