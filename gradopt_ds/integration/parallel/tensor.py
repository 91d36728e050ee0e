"""The tensor-parallel ranks of an engine, and the whole matrices of which they have parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.distributed as dist
from deepspeed.utils.bwc import (
    bwc_tensor_model_parallel_group,
    bwc_tensor_model_parallel_rank,
    bwc_tensor_model_parallel_world_size,
)
from torch import Tensor, nn

from gradopt_ds.integration.checkpoints.verdict import same_end
from gradopt_ds.integration.parallel.copies import unequal_copies
from gradopt_ds.integration.parallel.sequence import is_sequence_unit
from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.integration.parallel.tensor_metadata import (
    autotp_cuts,
    megatron_cuts,
    megatron_marks,
)
from gradopt_ds.matrices import Block
from gradopt_ds.optim import MatrixOptimizer
from gradopt_ds.optim.facts import read_facts, remember_facts
from gradopt_ds.sharding import Layout, tensor_parallel_layout

SIZES = (
    "get_tensor_model_parallel_world_size",
    "get_slice_parallel_world_size",
    "get_model_parallel_world_size",
)
"""What a model-parallel unit may be asked for the number of its tensor-parallel ranks."""


@dataclass(frozen=True)
class TensorParallel:
    """The ranks that have shards of the same parameters, or copies of them.

    Attributes:
        rank: of this process among them.
        size: how many they are, T.
        group: these ranks.
        cuts: parameter → how they have cut it.
    """

    rank: int
    size: int
    group: dist.ProcessGroup
    cuts: Mapping[Tensor, TensorCut]

    def shards(self, weight: Tensor, blocks: Sequence[Block]) -> list[Block]:
        """Return what this rank has of the matrices of a parameter."""
        return [self.cuts[weight].block(block, self.rank) for block in blocks]

    def join(self, columns: Sequence[Layout], axes: Sequence[Sequence[int | None]]) -> list[Layout]:
        """Join the layouts of all tensor-parallel ranks. Collective.

        Args:
            columns: of this rank's shards, over its data-parallel ranks.
            axes: for each layout, along which dimension each of its matrices is cut.

        Raises:
            ValueError: the ranks have shards that do not fit together.
        """
        everywhere: list[Sequence[Layout]] = [columns] * self.size
        dist.all_gather_object(everywhere, columns, group=self.group)
        with same_end():
            return [
                tensor_parallel_layout(parts, of_each)
                for parts, of_each in zip(zip(*everywhere, strict=True), axes, strict=True)
            ]


def tensor_size(engine: Any) -> int:
    """Count the tensor-parallel ranks of an engine."""
    mpu = engine.mpu
    if mpu is None or is_sequence_unit(mpu) or not any(hasattr(mpu, name) for name in SIZES):
        return max(engine.autotp_size(), 1)
    return int(bwc_tensor_model_parallel_world_size(mpu))


def read_tensor_parallel(engine: Any, model: nn.Module) -> TensorParallel | None:
    """Read how a model is cut. Collective.

    Args:
        engine: with AutoTP, or an ``mpu``.
        model: cut.

    Returns:
        None without tensor parallelism.

    Raises:
        ValueError: it is not known how a parameter is cut. On all ranks.
    """
    if (size := tensor_size(engine)) == 1:
        return None
    group = bwc_tensor_model_parallel_group(engine.mpu)
    rank = bwc_tensor_model_parallel_rank(engine.mpu)
    if engine.autotp_size() > 1:
        with same_end():
            cuts = autotp_cuts(model, rank)
    else:
        everywhere: list[Any] = [None] * size
        dist.all_gather_object(everywhere, megatron_marks(model), group=group)
        with same_end():
            cuts = megatron_cuts(model, everywhere)
    return TensorParallel(rank, size, group, cuts)


def remember_whole_shapes(model: nn.Module, tensor: TensorParallel) -> None:
    """Write the shape in the whole model beside every parameter of a model made of shards."""
    for param, known in read_facts(model).items():
        cut = tensor.cuts[param]
        if cut.axis is not None and known.inside:  # of a shard: not known of the whole
            known = replace(known, inside=None, unclear=True)
        remember_facts(param, replace(known, shape=cut.shape))


def ranks_of_stage(engine: Any) -> dist.ProcessGroup:
    """Return all ranks, or of a model with pipeline stages those of this one. Collective."""
    if not engine.pipeline_parallelism:
        assert dist.group.WORLD is not None
        return dist.group.WORLD
    topology = engine.module.topology()
    groups = [
        dist.new_group(sorted(topology.get_axis_list("pipe", stage)))
        for stage in range(engine.module.num_stages)
    ]
    return groups[engine.module.stage_id]


def _numbers_on_stage(engine: Any) -> list[int]:
    if not engine.pipeline_parallelism:
        return list(range(dist.get_world_size()))
    module = engine.module
    return sorted(module.topology().get_axis_list("pipe", module.stage_id))


def check_before_training(engine: Any, base: Any, tensor: TensorParallel) -> None:
    """Refuse ranks, copies and matrices with which a step would not be that of one process.

    Collective; all ranks come to the same end.

    Args:
        engine: the engine.
        base: its optimizer, or the one behind a gradient power.
        tensor: its tensor parallelism.

    Raises:
        ValueError: ranks are numbered in another way than is known; copies differ; the optimizer
            was made from shards; a matrix lies across sub-parameters that are cut separately.
    """
    unequal = unequal_copies(engine.module, tensor.cuts, tensor.group)
    data_rank = dist.get_rank(engine.seq_data_parallel_group)
    data_size = dist.get_world_size(engine.seq_data_parallel_group)
    ranks = _numbers_on_stage(engine)
    with same_end():
        if data_size * tensor.size != len(
            ranks
        ) or data_rank * tensor.size + tensor.rank != ranks.index(dist.get_rank()):
            raise ValueError(
                f"{tensor.size} tensor-parallel and {data_size} data-parallel ranks, and rank "
                f"{dist.get_rank()} is tensor-parallel rank {tensor.rank} and data-parallel rank "
                f"{data_rank}: expected all ranks (of a pipeline stage), numbered "
                f"data * {tensor.size} + tensor"
            )
        if unequal:
            raise ValueError(
                f"tensor-parallel ranks have different copies of {', '.join(unequal)}: begin from "
                "the same weights on all of them (torch.manual_seed before the model is built)"
            )
        if isinstance(base, MatrixOptimizer):
            names = {param: name for name, param in engine.module.named_parameters()}
            _check_matrices(base, names, tensor)


def _check_matrices(
    base: MatrixOptimizer, names: Mapping[Tensor, str], tensor: TensorParallel
) -> None:
    for param, assignment in base.assignments.items():
        cut = tensor.cuts[param]
        if assignment.shape != cut.shape:
            raise ValueError(
                f"{names[param]!r} is a shard of a parameter of shape {cut.shape}, and the "
                f"{type(base).__name__} was made for {assignment.shape}: name the optimizer in the "
                "JSON, or with AutoTP make it before deepspeed.initialize"
            )
        for block in assignment.blocks:
            if block.arrangement is not None and cut.axis is not None:
                raise ValueError(
                    f"{names[param]!r} holds matrices that are interwoven or stored as columns, "
                    "and tensor parallelism has cut it: it is not known how they come together. "
                    "Exempt it from tensor parallelism, or name it in `exclude`"
                )
            if not cut.joins_in_order(block):
                raise ValueError(
                    f"{names[param]!r} consists of {len(cut.widths)} sub-parameters of "
                    f"{[sum(parts) for parts in cut.widths]} along dimension {cut.axis}, each cut "
                    "over the tensor-parallel ranks, and a matrix lies across several: name them "
                    f'in "split" ({{"{names[param]}": {[sum(parts) for parts in cut.widths]}}})'
                )
