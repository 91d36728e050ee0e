"""Every refused setting is named, one by one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.moe.layer import MoE

from gradopt_ds.integration.unsupported import REFUSED, refuse_unsupported_settings

CPU, NVME = (SimpleNamespace(device=device) for device in ("cpu", "nvme"))
SGD = torch.optim.SGD([torch.zeros(1)])
CLIPPED = {"gradient_clipping": lambda: 1.0}
EXPERTS = {
    "has_moe_layers": True,
    "module": MoE(4, torch.nn.Linear(4, 4), num_experts=2, ep_size=2),
}
"""Spread over two ranks."""


class EngineStub(SimpleNamespace):
    """The accessors of a DeepSpeedEngine, all saying no."""

    def __getattr__(self, name: str) -> Any:
        return lambda: False


def engine(**overrides: Any) -> EngineStub:
    """An engine with a plain config, and what the test changes in it."""
    zero = {
        "zenflow": None,
        "offload_optimizer": None,
        "offload_param": None,
        "zero_quantized_weights": False,
        "zero_quantized_nontrainable_weights": False,
        "zero_quantized_gradients": False,
        "zero_hpz_partition_size": 1,
        "elastic_checkpoint": False,
        **overrides.pop("zero", {}),
    }
    plain = {
        "mpu": None,
        "pipeline_parallelism": False,
        "module": torch.nn.Module(),
        "has_moe_layers": False,
        "sequence_parallel_size": 1,
        "autotp_size": lambda: 0,
        "tensor_parallel_config": lambda: SimpleNamespace(tp_overlap_comm=False),
        "zero_offload_optimizer": lambda: None,
        "zero_partial_offload": lambda: 1.0,
        "checkpoint_serialization_enabled": lambda: True,
    }
    experts = SimpleNamespace(enabled=overrides.pop("auto_ep", False))
    config = SimpleNamespace(
        zero_config=SimpleNamespace(**zero),
        expert_parallel_config=experts,
        _param_dict=overrides.pop("json", {}),
    )
    return EngineStub(_config=config, **{**plain, **overrides})


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"zero": {"offload_optimizer": CPU, "offload_param": CPU}},
        {**EXPERTS, **CLIPPED, "zero_optimization": lambda: True},
        {**EXPERTS, **CLIPPED, "module": MoE(4, torch.nn.Linear(4, 4), num_experts=2, ep_size=1)},
        {"auto_ep": True, "client_optimizer": lambda params: SGD},
        {"torch_autocast_enabled": lambda: True, "torch_autocast_dtype": lambda: torch.bfloat16},
        {"torch_autocast_enabled": lambda: True, "torch_autocast_dtype": lambda: torch.float16},
        {
            "zero": {"zero_hpz_partition_size": 2},
            "zero_optimization_partition_weights": lambda: True,
        },
        {
            "bf16_master_weights_and_gradients": lambda: True,
            "bf16_optimizer_states": lambda: True,
        },
    ],
)
def test_supported_settings_are_accepted(overrides: dict[str, Any]) -> None:
    """Nothing to refuse."""
    refuse_unsupported_settings(engine(**overrides), "SWAN")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"zero": {"zenflow": object()}}, "zenflow"),
        ({"zero": {"offload_optimizer": NVME}}, "offload_optimizer.*nvme"),
        ({"zero": {"offload_param": NVME}}, "offload_param.*nvme"),
        ({"super_offload": lambda: True}, "super_offload"),
        (
            {"zero": {"offload_optimizer": CPU}, "zero_partial_offload": lambda: 0.5},
            "offload_optimizer.*ratio",
        ),
        ({"zero": {"zero_quantized_nontrainable_weights": True}}, "nontrainable_weights"),
        ({"zero": {"zero_quantized_weights": True}}, "zero_quantized_weights"),
        ({"zero": {"zero_quantized_gradients": True}}, "zero_quantized_gradients"),
        ({"zero": {"zero_hpz_partition_size": 2}}, "zero_hpz_partition_size.* below ZeRO stage 3"),
        ({"zero": {"elastic_checkpoint": True}}, "elastic_checkpoint"),
        (
            {"load_universal_checkpoint": lambda: True, "zero_optimization": lambda: False},
            "load_universal.*stage 0",
        ),
        ({"checkpoint_serialization_enabled": lambda: False}, "checkpoint_serialization"),
        ({"fp16_master_weights_and_gradients": lambda: True}, "fp16_master_weights_and_grads"),
        (
            {"bf16_master_weights_and_gradients": lambda: True},
            "bf16_master_weights_and_grads.* without .*bf16_optimizer_states",
        ),
        (
            {
                "bf16_master_weights_and_gradients": lambda: True,
                "bf16_optimizer_states": lambda: True,
                "zero": {"offload_optimizer": CPU},
            },
            "bf16_master_weights_and_grads.* with .*offload_optimizer",
        ),
        (
            {
                "torch_autocast_enabled": lambda: True,
                "torch_autocast_dtype": lambda: torch.float16,
                "zero_optimization": lambda: True,
            },
            "torch_autocast.*float16.* at ZeRO stages 1 to 3",
        ),
        ({"is_deepcompile_enabled": lambda: True}, "deepcompile"),
        ({"mpu": object()}, "mpu.* for more than sequence or tensor parallelism"),
        ({"sequence_parallel_size": 2}, "sequence_parallel_size"),
        ({"json": {"sequence_parallel_size": 2}}, "sequence_parallel_size"),
        (
            {**EXPERTS, "zero_optimization_partition_weights": lambda: True},
            "DeepSpeed MoE layers at ZeRO stage 3",
        ),
        ({**EXPERTS, **CLIPPED}, "gradient_clipping.*at ZeRO stage 0 with experts"),
        (
            {**EXPERTS, **CLIPPED, "fp16_enabled": lambda: True},
            "gradient_clipping.* in half precision",
        ),
        ({**EXPERTS, "autotp_size": lambda: 2}, "tensor parallelism .* DeepSpeed MoE layers"),
        ({**EXPERTS, "mpu": object()}, "tensor parallelism .* DeepSpeed MoE layers"),
        ({**EXPERTS, "sequence_parallel_size": 2}, "sequence parallelism with experts"),
        ({**EXPERTS, "auto_ep": True, "autotp_size": lambda: 2}, "tensor parallelism .*AutoEP"),
        ({"auto_ep": True, "client_optimizer": SGD}, "an optimizer object .*AutoEP"),
    ],
)
def test_each_setting_is_refused_by_name(overrides: dict[str, Any], named: str) -> None:
    """The error says which optimizer and which setting."""
    with pytest.raises(NotImplementedError, match=f"PolarGrad does not support .*{named}"):
        refuse_unsupported_settings(engine(**overrides), "PolarGrad")


def test_the_accessors_exist() -> None:
    """The stub answers to any name; the real engine must have those that are asked."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    asked = {name for _, check in REFUSED for name in check.__code__.co_names}
    attributes = {"_config", "mpu", "module", "has_moe_layers", "sequence_parallel_size"}
    attributes |= {"pipeline_parallelism"}
    of_config = {"zenflow", "offload_optimizer", "offload_param"} | {
        name
        for name in asked
        if name.startswith("zero_")
        and name not in ("zero_partial_offload", "zero_optimization")
        and name != "zero_optimization_partition_weights"
    }
    helpers = {
        "_zero",
        "_device",
        "_optimizer_device",
        "isinstance",
        "bool",
        "max",
        "int",
        "get",
        "hasattr",
    }
    helpers |= {"_cuts_weights", "is_sequence_unit", "_is_deepspeeds_own", "_param_dict"}
    helpers |= {"tensor_size"}  # what it and the checks behind it ask: test_tensor_refused.py
    methods = asked - attributes - of_config - helpers
    methods -= {"elastic_checkpoint", "torch", "float16", "bfloat16", "float32"}
    methods -= {"expert_parallel_config", "enabled", "client_optimizer", "Optimizer"}
    methods -= {"_has_moe_layer", "_has_auto_ep", "_is_tensor_parallel", "modules", "getattr"}
    assert [name for name in methods if not hasattr(DeepSpeedEngine, name)] == []
