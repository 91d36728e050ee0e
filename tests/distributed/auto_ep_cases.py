"""Engines whose experts DeepSpeed's AutoEP spreads over ranks."""

from dataclasses import dataclass, field
from typing import Any

from tests.distributed.auto_ep_model import DESCRIBED
from tests.distributed.model import SAMPLES
from tests.distributed.precisions import PRECISIONS
from tests.distributed.recipes import RECIPES


@dataclass(frozen=True)
class Case:
    """One engine configuration."""

    optimizer: str
    ep_size: int
    stage: int
    precision: str = "fp32"
    accumulation: int = 1
    clipping: float = 0.0
    zero: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    model: str = "stacked"

    def config(self, **extra: Any) -> dict[str, Any]:
        """The DeepSpeed JSON."""
        block = RECIPES[self.optimizer].config
        described = DESCRIBED if self.model == "stacked" else {}
        return {
            "train_micro_batch_size_per_gpu": SAMPLES,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clipping,
            "zero_optimization": {"stage": self.stage, **self.zero},
            "optimizer": {**block, "params": {**block["params"], **self.params}},
            "expert_parallel": {"enabled": True, "autoep_size": self.ep_size, **described},
            **PRECISIONS[self.precision],
            **extra,
        }

    @property
    def tolerance(self) -> float:
        """The relative error of an update; with bfloat16 weights units in their last place."""
        return 2.5 if self.precision == "pure bf16" else 1e-4

    @property
    def name(self) -> str:
        """For ``job_id``."""
        options = [f"{key} {value}" for key, value in {**self.zero, **self.params}.items()]
        return " ".join(
            [
                self.model,
                self.optimizer,
                f"stage{self.stage}",
                self.precision,
                f"accumulation{self.accumulation}",
                f"clipping{self.clipping:g}",
                f"ep_size{self.ep_size}",
                *options,
            ]
        )


STAGES = (0, 1, 2, 3)
SHARED = [
    *(Case("SWAN", 2, stage, accumulation=2) for stage in STAGES),
    Case("PolarGrad", 2, 0),
    *(Case("PolarGrad", 2, stage, clipping=0.05) for stage in (1, 2, 3)),
]
"""On two ranks every expert is on one; on four it is on two, and cut."""

GRAM = {"oracle": "eigh", "exchange_strategy": {"*.experts.w2": "gram"}}
STOCHASTIC = {"stochastic_rounding": True}
STEPS = {
    2: [
        *SHARED,
        Case("PolarGrad", 2, 0, "bf16"),
        *(Case("PolarGrad", 2, stage, "bf16", clipping=0.05) for stage in (1, 2, 3)),
        Case("PolarGrad", 2, 1, "bf16 fp32 gradients", 2, clipping=0.05),
        *(Case("MuonPower", 1, stage) for stage in (0, 3)),
        Case("SinkGD", 2, 3, "bf16"),
        *(Case("SWAN", 2, stage, "pure bf16", params=STOCHASTIC) for stage in (1, 2, 3)),
        Case("AdamPower", 2, 1),
        *(
            Case("PolarGrad", 2, stage, zero={"offload_optimizer": {"device": "cpu"}})
            for stage in (2, 3)
        ),
        Case("SWAN", 2, 2, zero={"round_robin_gradients": True}),
    ],
    4: [*SHARED[4:], Case("MuonPower", 4, 2), *(Case("SWAN", 2, s, params=GRAM) for s in (2, 3))],
}
"""Held against float64, by number of ranks."""

OF_TRANSFORMERS = [Case("PolarGrad", 2, stage, model="Qwen2MoE") for stage in STAGES]
RESUMED = {
    2: [Case("PolarGrad", 2, stage) for stage in STAGES],
    4: [Case("PolarGrad", 2, 3)],
}
"""Saved and loaded, by number of ranks."""
