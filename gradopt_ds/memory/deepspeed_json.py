"""A setup from a DeepSpeed JSON; what is not understood is refused, never ignored."""

from collections.abc import Callable, Mapping
from typing import Any

NO_MATTER = frozenset(
    {
        "comms_logger", "csv_monitor", "dataloader_drop_last", "dump_state", "flops_profiler",
        "gradient_clipping", "gradient_predivide_factor", "memory_breakdown",
        "prescale_gradients", "scheduler", "steps_per_print", "tensorboard", "wall_clock_breakdown",
        "wandb", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
    }
)  # fmt: skip
"""Keys that change no byte that is estimated."""

ZERO_NO_MATTER = frozenset({"allgather_partitions", "allgather_bucket_size", "reduce_scatter",
                            "stage3_prefetch_bucket_size"})  # fmt: skip

ZERO = {
    "stage": "stage",
    "reduce_bucket_size": "reduce_bucket_size",
    "overlap_comm": "overlap_comm",
    "sub_group_size": "sub_group_size",
    "stage3_param_persistence_threshold": "param_persistence_threshold",
    "stage3_max_live_parameters": "max_live_parameters",
}
"""Keys of ``zero_optimization`` → fields of :class:`gradopt_ds.memory.setup.Setup`."""

BATCHES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def read_setup(config: Mapping[str, Any], ranks: int) -> dict[str, Any]:
    """Return the fields of :class:`gradopt_ds.memory.setup.Setup` that a DeepSpeed JSON decides.

    Args:
        config: the JSON.
        ranks: data-parallel ranks; the JSON does not say.

    Raises:
        ValueError: names every key whose meaning for memory is not known.
    """
    known = {*NO_MATTER, *BATCHES, "zero_optimization", "optimizer", "bf16", "fp16", "data_types",
             "expert_parallel", "tensor_parallel"}  # fmt: skip
    zero = dict(config.get("zero_optimization") or {})
    unknown = [key for key in config if key not in known]
    unknown += [f"zero_optimization.{key}" for key in zero
                if key not in {*ZERO, *ZERO_NO_MATTER, "offload_optimizer", "offload_param",
                               "contiguous_gradients"}]  # fmt: skip
    if zero.get("contiguous_gradients") is False:
        unknown.append("zero_optimization.contiguous_gradients = false")
    if unknown:
        raise ValueError(
            f"it is not known what {', '.join(unknown)} means for memory: remove it from the JSON "
            "that is estimated, if it means nothing"
        )
    return {
        "stage": 0,
        **{field: zero[key] for key, field in ZERO.items() if key in zero},
        **{key: _offloaded(key, zero.get(key)) for key in ("offload_optimizer", "offload_param")},
        "precision": _precision(config),
        "ranks": ranks,
        **_auto_ep(config.get("expert_parallel") or {}),
        **_auto_tp(config.get("tensor_parallel") or {}),
        **_batches(config, ranks),
    }


def _offloaded(key: str, offload: Mapping[str, Any] | None) -> bool:
    device = (offload or {}).get("device", "none")
    if device not in ("none", "cpu"):
        raise ValueError(f"zero_optimization.{key}.device: {device!r} is not supported, cpu is")
    if offload and (more := sorted(set(offload) - {"device", "pin_memory"})):
        raise ValueError(f"it is not known what zero_optimization.{key}: {more} means for memory")
    return device == "cpu"


def _auto_ep(settings: Mapping[str, Any]) -> dict[str, int]:
    if not settings.get("enabled"):
        return {}
    if (size := int(settings.get("autoep_size", 1))) == 1:
        raise ValueError(
            "expert_parallel with autoep_size 1 is not estimated: it spreads nothing, and its "
            "layers have other parameters than the model's; take it out of the JSON"
        )
    return {"expert_parallel": size}


def _auto_tp(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = {"autotp_size": "tensor_parallel", "preset_model": "tensor_parallel_preset"}
    if more := sorted(set(settings) - set(names)):
        raise ValueError(f"it is not known what tensor_parallel: {more} means for memory")
    return {names[key]: value for key, value in settings.items() if value}


def _precision(config: Mapping[str, Any]) -> str:
    bf16, fp16 = dict(config.get("bf16") or {}), dict(config.get("fp16") or {})
    accumulated = dict(config.get("data_types") or {}).get("grad_accum_dtype")
    pure = bf16.get("bf16_master_weights_and_grads"), bf16.get("bf16_optimizer_states")
    if fp16.get("enabled") and fp16.get("fp16_master_weights_and_grads"):
        raise ValueError("fp16.fp16_master_weights_and_grads is not supported")
    name = "bf16" if bf16.get("enabled") else "fp16" if fp16.get("enabled") else "fp32"
    if name == "bf16" and any(pure):
        if not all(pure):
            raise ValueError("bf16_master_weights_and_grads needs bf16_optimizer_states beside it")
        name = "pure-bf16"
    if accumulated not in (None, {"pure-bf16": "bf16"}.get(name, name)):
        if (name, accumulated) != ("bf16", "fp32"):
            raise ValueError(f"data_types.grad_accum_dtype {accumulated!r} with {name} has not "
                             "been measured")  # fmt: skip
        name = "bf16-fp32-gradients"
    return name


def _batches(config: Mapping[str, Any], ranks: int) -> dict[str, int]:
    train, micro, accumulation = (config.get(key) for key in BATCHES)
    per_rank: Callable[[int], int] = lambda parts: int(train or 0) // (ranks * parts)  # noqa: E731
    if micro is None:
        micro = per_rank(accumulation or 1) if train else 1
    if accumulation is None:
        accumulation = per_rank(micro) if train else 1
    if not micro or not accumulation or (train and micro * accumulation * ranks != train):
        raise ValueError(
            f"{BATCHES[0]} {train} is not {BATCHES[1]} {micro} x {BATCHES[2]} {accumulation} x "
            f"{ranks} ranks"
        )
    return {"micro_batch": micro, "accumulation": accumulation}
