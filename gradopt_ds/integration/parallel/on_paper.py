"""Which sizes of parallelism go together, in DeepSpeed and in this library."""


def check_parallel(stage: int, tensor: int, pipeline: int, expert: int) -> None:
    """Refuse sizes that no engine has.

    Args:
        stage: of ZeRO.
        tensor: number of tensor-parallel ranks.
        pipeline: number of pipeline stages.
        expert: number of ranks that share one copy of the experts.

    Raises:
        ValueError: names the settings and what to change.
    """
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
