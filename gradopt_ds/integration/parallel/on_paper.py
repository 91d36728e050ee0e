"""Sizes of parallelism: what settings on paper call them, and which go together."""

from typing import Annotated

from pydantic import Field

from gradopt_ds.integration.parallel.pipeline_on_paper import Partition

ExpertParallel = Annotated[int, Field(ge=1, description="ranks that share one copy of the experts")]
TensorParallel = Annotated[
    int,
    Field(ge=1, description="ranks that have shards of the same layers, as AutoTP cuts them"),
]
TensorParallelPreset = Annotated[
    str | None, Field(description="a preset of AutoTP, for models whose own plan it refuses")
]
Pipeline = Annotated[int, Field(ge=1, description="stages of consecutive layers")]
PipelinePartition = Annotated[
    Partition, Field(description="PipelineModule's partition_method: parameters or uniform")
]


def check_parallel(stage: int, ranks: int, tensor: int, pipeline: int, expert: int) -> None:
    """Refuse sizes that no engine has.

    Args:
        stage: of ZeRO.
        ranks: number of data-parallel ranks.
        tensor: number of tensor-parallel ranks.
        pipeline: number of pipeline stages.
        expert: number of ranks that share one copy of the experts.

    Raises:
        ValueError: names the settings and what to change.
    """
    if ranks % expert:
        raise ValueError(
            f"{ranks} ranks cannot be cut into groups of expert_parallel {expert}: it must divide "
            "the ranks"
        )
    if tensor > 1 and stage == 3:
        raise ValueError(
            "tensor_parallel is refused at ZeRO stage 3: take stage 1 or 2, or tensor_parallel 1"
        )
    if pipeline > 1 and stage > 1:
        raise ValueError(f"DeepSpeed has no pipeline at ZeRO stage {stage}: take stage 1")
    if expert > 1 and max(tensor, pipeline) > 1:
        raise ValueError(
            "expert_parallel is refused beside tensor_parallel and pipeline: take it alone, or 1"
        )
