"""Which files of a checkpoint DeepSpeed reads, and which of them this rank is to verify."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from deepspeed.utils import groups

from gradopt_ds.integration.checkpoints.universal_files import listed_files, read_common
from gradopt_ds.integration.parallel.pipeline_ties import layer_files
from gradopt_ds.integration.parallel.tensor import tensor_size

MODEL_AND_STATE = "*_states.pt"
"""DeepSpeed's names of the files with weights and of those with optimizer state."""


@dataclass(frozen=True)
class Wanted:
    """What is to be loaded, in the words of ``engine.load_checkpoint``.

    Attributes:
        load_optimizer_states: False: not the optimizer's state.
        load_module_only: the weights alone.
    """

    load_optimizer_states: bool = True
    load_module_only: bool = False

    @property
    def state(self) -> bool:
        """Whether the optimizer's state is loaded."""
        return self.load_optimizer_states and not self.load_module_only

    def joins_slices(self, engine: Any) -> bool:
        """Tell whether DeepSpeed puts the weights together from the slices of all ranks.

        It does so at stage 3, on every rank, from the tag that the file ``latest`` names.
        """
        cut: bool = engine.zero_optimization_partition_weights()
        return cut and not self.load_optimizer_states and not engine.load_universal_checkpoint()


def files_to_verify(engine: Any, folder: Path, wanted: Wanted) -> list[Path]:
    """Return the files that this rank answers for, so that every file is read through once.

    A file that one rank alone loads is its own business. What all ranks load, or all of one
    pipeline stage or tensor-parallel rank, is shared out among them; with
    ``use_node_local_storage`` every node has its own copy, and every rank verifies all that it
    loads.

    Args:
        engine: the engine that is about to load.
        folder: of one checkpoint, its tag included.
        wanted: what of it.

    Raises:
        ValueError: a universal checkpoint is wanted and ``folder`` is none.
    """
    own, common = _files(engine, folder, wanted)
    if engine.use_node_local_storage():
        return [*own, *common]
    # What is common to all ranks, or to those of a pipeline stage or of a tensor-parallel rank.
    has_parts = engine.pipeline_parallelism or tensor_size(engine) > 1
    group = engine.mpu.get_data_parallel_group() if has_parts else None
    return [*own, *common[dist.get_rank(group) :: dist.get_world_size(group)]]


def optimizer_file(engine: Any, folder: Path) -> Path:
    """Return where DeepSpeed has put the optimizer's state of this rank."""
    parent, tag = str(folder.parent), folder.name
    if engine.zero_optimization():
        return Path(engine._get_zero_ckpt_name(parent, tag))
    if engine.has_moe_layers:
        largest = groups._get_max_expert_size_name()
        rank = groups._get_expert_parallel_rank(largest)
        return Path(engine._get_optimizer_ckpt_name(parent, tag, rank))
    return Path(engine._get_ckpt_name(parent, tag))


def _files(engine: Any, folder: Path, wanted: Wanted) -> tuple[list[Path], Sequence[Path]]:
    """Return what this rank alone loads, and what others load too, in one order."""
    parent, tag = str(folder.parent), folder.name
    if engine.load_universal_checkpoint():
        models = map(Path, engine._get_all_ckpt_names(parent, tag))
        return [], [*models, *listed_files(folder, read_common(folder)[1])]
    if wanted.joins_slices(engine):
        return [], sorted(folder.glob(MODEL_AND_STATE))
    model = Path(engine._get_ckpt_name(parent, tag))
    state = optimizer_file(engine, folder)
    cut = engine.zero_optimization_partition_weights()
    own = [model] * cut + [state] * (wanted.state and state != model)
    if engine.pipeline_parallelism:
        return own, [model, *layer_files(engine.module, folder)]
    return own, [model] * (not cut) + sorted(folder.glob("layer_*_expert_*_model_states.pt"))
