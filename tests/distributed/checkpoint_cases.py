"""What is saved and loaded on real engines."""

from dataclasses import dataclass, field
from typing import Any

from tests.distributed.cases import BF16_ACCUMULATING_IN_FP32, EVERY_PARAMETER_PARTITIONED, ON_CPU
from tests.distributed.recipes import AUX

PARAMS: dict[str, dict[str, Any]] = {
    "SWAN": {"lr": 0.2, "alpha": 0.1, "oracle": "svd", "aux": AUX},
    "PolarGrad": {"lr": 0.1, "momentum": 0.8, "oracle": "svd", "aux": AUX},
    "MuonPower": {"lr": 0.1, "momentum": 0.8, "oracle": "svd", "aux": AUX, "power": 1.2},
    "AdamPower": {"lr": 0.01},
}

PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "bf16 over fp32": {"bf16": {"enabled": True}, **BF16_ACCUMULATING_IN_FP32},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 8, "hysteresis": 1}},
}


@dataclass(frozen=True)
class Case:
    """One engine configuration."""

    optimizer: str
    stage: int
    precision: str = "fp32"
    zero: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    zero_init: bool = False
    frozen: bool = False
    model: str = "dense"

    @property
    def name(self) -> str:
        """For messages, folders and ``job_id``."""
        options = [f"{key}={value}" for key, value in {**self.zero, **self.params}.items()]
        options += ["zero.Init"] * self.zero_init + ["frozen"] * self.frozen
        options += [self.model] * (self.model != "dense")
        text = ", ".join([self.optimizer, f"stage{self.stage}", self.precision, *options])
        return text.replace("/", " ")

    def __hash__(self) -> int:
        return hash(self.name)


def engine_config(case: Case, micro_batch: int) -> dict[str, Any]:
    """The DeepSpeed config of a case."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
        "zero_optimization": {"stage": case.stage, **case.zero},
        "optimizer": {
            "type": case.optimizer,
            "params": {**PARAMS[case.optimizer], **case.params},
        },
        **PRECISIONS[case.precision],
    }


SUB_GROUPS = {**EVERY_PARAMETER_PARTITIONED, "sub_group_size": 150}
EXCLUDED = {"exclude": ["blocks.0.square.weight"]}

CASES = [
    *(Case(optimizer, stage) for optimizer in PARAMS for stage in (0, 1, 2)),
    *(Case(optimizer, 3, zero=EVERY_PARAMETER_PARTITIONED) for optimizer in PARAMS),
    *(Case("PolarGrad", stage, "bf16") for stage in (0, 1, 2, 3)),
    *(Case("SWAN", stage, "bf16") for stage in (0, 2)),
    *(Case("AdamPower", stage, "bf16") for stage in (0, 1)),
    Case("MuonPower", 2, "bf16"),
    *(Case(optimizer, 3, "bf16", SUB_GROUPS, zero_init=True) for optimizer in PARAMS),
    Case("PolarGrad", 1, "bf16 over fp32"),
    Case("SWAN", 1, "bf16 over fp32"),
    Case("PolarGrad", 1, zero={"offload_optimizer": ON_CPU}),
    Case("PolarGrad", 2, "bf16", {"offload_optimizer": ON_CPU}),
    Case("MuonPower", 3, "bf16", {**SUB_GROUPS, "offload_optimizer": ON_CPU}, zero_init=True),
    Case("PolarGrad", 2, zero={"round_robin_gradients": True}),
    Case("PolarGrad", 2, "bf16", zero={"parameter_alignment": True}),
    Case("PolarGrad", 3, zero=SUB_GROUPS, frozen=True),
    *(Case("PolarGrad", stage, model="Qwen2MoE") for stage in (0, 1, 2)),
    Case("MuonPower", 3, "bf16", zero=SUB_GROUPS, zero_init=True, model="Qwen2MoE"),
    Case("SWAN", 2, "bf16", model="Qwen2MoE"),
]
"""What goes on, bit by bit, as if it had never been broken."""

SKIPPED = [Case("PolarGrad", stage, "fp16", params={"power": 1.2}) for stage in (0, 1, 2, 3)]
"""Resumed after a step that overflowed."""

STAGE_2, STAGE_3 = Case("PolarGrad", 2), Case("PolarGrad", 3, zero=SUB_GROUPS)
EXPERTS_2 = Case("PolarGrad", 2, model="Qwen2MoE")
EXPERTS_3 = Case("PolarGrad", 3, zero=SUB_GROUPS, model="Qwen2MoE")
ZERO_TO_FP32 = [
    *(Case("PolarGrad", stage, "bf16") for stage in (1, 2, 3)),
    *(Case(optimizer, 2) for optimizer in PARAMS),
    Case("PolarGrad", 2, zero={"round_robin_gradients": True}),
    Case("MuonPower", 3, "bf16", SUB_GROUPS, zero_init=True),
    Case("SWAN", 3, zero=SUB_GROUPS, frozen=True),
]
"""Read by DeepSpeed's own script."""


@dataclass(frozen=True)
class Move:
    """Saved as the first, loaded on another number of ranks as the second."""

    saved: Case
    loaded: Case

    @property
    def name(self) -> str:
        """For messages and ``job_id``."""
        return self.saved.name + ("" if self.saved == self.loaded else f" as {self.loaded.name}")


UNIVERSAL = [
    *(Move(case, case) for case in (
        Case("PolarGrad", 1), STAGE_2, STAGE_3,
        *(Case("SWAN", stage) for stage in (2, 3)),
        *(Case("AdamPower", stage) for stage in (1, 3)),
        Case("MuonPower", 3, "bf16", SUB_GROUPS, zero_init=True),
        Case("MuonPower", 1, "bf16"),
        Case("PolarGrad", 1, "bf16 over fp32"),
        Case("PolarGrad", 2, "fp16"),
        Case("PolarGrad", 3, "bf16", {**SUB_GROUPS, "offload_optimizer": ON_CPU}),
        Case("PolarGrad", 2, zero={"round_robin_gradients": True}),
        Case("PolarGrad", 2, frozen=True),
        Case("PolarGrad", 3, zero=SUB_GROUPS, frozen=True, zero_init=True),
    )),
    Move(STAGE_2, STAGE_3),
    Move(STAGE_3, Case("PolarGrad", 1)),
    Move(EXPERTS_2, EXPERTS_3),
    Move(EXPERTS_3, EXPERTS_2),
    Move(Case("PolarGrad", 2, "fp16"), Case("PolarGrad", 3, "bf16")),
]  # fmt: skip
"""Converted to the universal layout, and loaded."""

SAVED = list(dict.fromkeys(move.saved for move in UNIVERSAL))
