"""What the DeepSpeed JSON says for each precision that cases name."""

from typing import Any

LOSS_SCALE_POWER = 8

PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "bf16 fp32 gradients": {
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
    },
    "pure bf16": {
        "bf16": {
            "enabled": True,
            "bf16_master_weights_and_grads": True,
            "bf16_optimizer_states": True,
        }
    },
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": LOSS_SCALE_POWER}},
    "autocast": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
    "fp16 autocast": {"torch_autocast": {"enabled": True, "dtype": "float16"}},
}
