"""The parameters of every pipeline stage, and how tensor parallelism cuts them: from shapes."""

from math import prod

from torch import nn

from gradopt_ds.integration.parallel.pipeline_on_paper import Partition, pipeline_stages
from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.integration.parallel.tensor_on_paper import tensor_cuts


def cut_stages(
    model: nn.Module, tensor: int, preset: str | None, pipeline: int, partition: Partition
) -> list[dict[str, TensorCut]]:
    """Return, for every pipeline stage, its parameters by name and how each is cut.

    Args:
        model: it may be on the meta device.
        tensor: number of tensor-parallel ranks.
        preset: see :func:`~.tensor_on_paper.tensor_cuts`.
        pipeline: number of pipeline stages.
        partition: see :func:`~.pipeline_on_paper.pipeline_stages`.

    Raises:
        ValueError: see these two.
    """
    cuts = tensor_cuts(model, tensor, preset)
    elements = {name: prod(cut.shard_shape(0)) for name, cut in cuts.items()}
    stages = pipeline_stages(model, pipeline, partition, elements)
    return [{name: cuts[name] for name in names} for names in stages]
