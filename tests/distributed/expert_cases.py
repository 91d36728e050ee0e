"""Engines with DeepSpeed MoE layers: experts on every rank (``ep_size`` 1) and on some."""

from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

from tests.distributed.expert_model import EXPERTS_PER_RANK
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
    extra: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """The DeepSpeed JSON."""
        return {
            "train_micro_batch_size_per_gpu": SAMPLES,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clipping,
            "zero_optimization": {"stage": self.stage, **self.zero},
            "optimizer": RECIPES[self.optimizer].config,
            **PRECISIONS[self.precision],
            **self.extra,
        }

    @property
    def tolerance(self) -> float:
        """The relative error of an update; with bfloat16 weights units in their last place.

        An expert with two tokens has a gradient of rank 2; half precision adds its rounding, and
        the condition number is 1e5 to 1e6: float32's rounding of SWAN's first stage times that.
        """
        return {"fp32": 1e-4, "pure bf16": 2.5}.get(self.precision, 3e-3)

    @property
    def name(self) -> str:
        """For ``job_id``."""
        options = [f"{key} {value}" for key, value in {**self.zero, **self.extra}.items()]
        return " ".join(
            [
                self.optimizer,
                f"stage{self.stage}",
                self.precision,
                f"accumulation{self.accumulation}",
                f"clipping{self.clipping:g}",
                f"ep_size{self.ep_size}",
                *options,
            ]
        )

    @property
    def experts(self) -> int:
        """Their number."""
        return EXPERTS_PER_RANK * self.ep_size

    @property
    def ep_rank(self) -> int:
        """Which experts this rank has."""
        return dist.get_rank() % self.ep_size


SHARED = [
    Case(optimizer, 2, stage, precision, 2)
    for stage in (0, 1, 2)
    for optimizer, precision in (("SWAN", "fp32"), ("PolarGrad", "bf16"))
]
"""On two ranks every expert is on one; on four it is on two, and cut."""

ON_TWO_RANKS = [
    *(Case(optimizer, 1, stage, precision)
      for stage in (0, 1, 2)
      for optimizer, precision in (("SWAN", "bf16"), ("PolarGrad", "fp32"))),
    *(Case("PolarGrad", 2, stage, clipping=0.05) for stage in (1, 2)),
    Case("MuonPower", 2, 2),
    Case("SinkGD", 2, 1),
    Case("AdamPower", 2, 2, "bf16"),
    *(Case("PolarGrad", ep_size, 2, clipping=0.05, zero={"offload_optimizer": {"device": "cpu"}})
      for ep_size in (1, 2)),
    *(Case("PolarGrad", 2, stage, "fp16", 2) for stage in (0, 1, 2)),
    *(Case("SWAN", 2, stage, "autocast") for stage in (0, 2)),
    Case("SWAN", 2, 2, zero={"round_robin_gradients": True}),
    Case("SWAN", 2, 1, "bf16", 2, extra={"data_types": {"grad_accum_dtype": "fp32"}}),
    *(Case("SWAN", ep_size, stage, "pure bf16") for ep_size in (1, 2) for stage in (1, 2)),
]  # fmt: skip  # fmt: skip

STEPS = {2: [*SHARED, *ON_TWO_RANKS], 4: SHARED}
"""Held against float64, by number of ranks."""

COUNTED = [Case("PolarGrad", ep_size, stage) for ep_size in (1, 2) for stage in (1, 2)]
"""Whose calls of the oracle are counted."""

ON_SOME_RANKS = [Case("PolarGrad", 2, stage) for stage in (0, 1, 2)]
RESUMED = {
    2: [
        *ON_SOME_RANKS,
        *(Case("PolarGrad", 1, stage) for stage in (0, 2)),
        Case("SWAN", 2, 2, "bf16"),
        Case("AdamPower", 2, 1),
    ],
    4: ON_SOME_RANKS,
}
"""Saved and loaded, by number of ranks."""
