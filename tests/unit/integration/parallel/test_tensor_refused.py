"""Settings under tensor parallelism: each is refused by name, and with it alone."""

from types import SimpleNamespace
from typing import Any

import pytest

from gradopt_ds.integration.unsupported import refuse_unsupported_settings
from tests.unit.integration.test_unsupported import engine


def with_autotp(**overrides: Any) -> Any:
    """An engine of two tensor-parallel ranks."""
    settings = SimpleNamespace(tp_overlap_comm=overrides.pop("overlap", False))
    plain = {
        "autotp_size": lambda: 2,
        "tensor_parallel_config": lambda: settings,
        "zero_offload_optimizer": lambda: None,
        "module": SimpleNamespace(parameters=lambda: overrides.pop("parameters", [])),
        "mpu": None,
        "zero_optimization": lambda: True,
        "gradient_clipping": lambda: 1.0,
    }
    return engine(**{**plain, **overrides})


def test_the_proven_settings_are_accepted() -> None:
    """ZeRO 1 and 2 with clipping; stage 0 in fp32 with clipping, in bf16 without."""
    refuse_unsupported_settings(with_autotp(), "SWAN")
    refuse_unsupported_settings(with_autotp(bfloat16_enabled=lambda: True), "SWAN")
    refuse_unsupported_settings(with_autotp(zero_optimization=lambda: False), "SWAN")
    refuse_unsupported_settings(
        with_autotp(
            bfloat16_enabled=lambda: True,
            zero_optimization=lambda: False,
            gradient_clipping=lambda: 0.0,
        ),
        "SWAN",
    )


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"zero_optimization_partition_weights": lambda: True}, "ZeRO stage 3"),
        ({"fp16_enabled": lambda: True}, "fp16"),
        ({"zero_offload_optimizer": lambda: SimpleNamespace(device="cpu")}, "offload_optimizer"),
        (
            {"bfloat16_enabled": lambda: True, "zero_optimization": lambda: False},
            "gradient_clipping.* at ZeRO stage 0 in half precision",
        ),
        ({"overlap": True}, "tp_overlap_comm"),
        ({"parameters": [SimpleNamespace(sequence_parallel=True)]}, "sequence_parallel"),
        ({"sequence_parallel_size": 2}, "sequence parallelism"),
        (
            {"mpu": SimpleNamespace(
                get_pipeline_model_parallel_world_size=lambda: 2,
                get_tensor_model_parallel_world_size=lambda: 2,
            )},
            "pipeline parallelism of the mpu",
        ),
    ],
)  # fmt: skip
def test_each_setting_is_refused_by_name(overrides: dict[str, Any], named: str) -> None:
    """The message names the setting, and no other one."""
    with pytest.raises(NotImplementedError, match=f"tensor parallelism with .*{named}") as raised:
        refuse_unsupported_settings(with_autotp(**overrides), "SWAN")
    assert str(raised.value).count("tensor parallelism with") == 1
    assert "SWAN does not support tensor parallelism with" in str(raised.value)


def test_the_accessors_exist() -> None:
    """The stub answers to any name; the real engine must have those that are asked."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    from gradopt_ds.integration.parallel.tensor_refused import SETTINGS, _half_precision

    asked = {name for _, check in SETTINGS for name in check.__code__.co_names}
    asked |= set(_half_precision.__code__.co_names)
    known = {"_half_precision", "bool", "any", "getattr", "bwc_pipeline_parallel_world_size"}
    attributes = {"tp_overlap_comm", "module", "parameters", "pipeline_parallelism", "mpu"}
    attributes |= {"sequence_parallel_size"}
    assert [n for n in asked - known - attributes if not hasattr(DeepSpeedEngine, n)] == []
