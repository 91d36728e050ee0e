"""Engines with pipeline stages that are held against one process."""

from dataclasses import dataclass, field
from typing import Any

from tests.distributed.model import SAMPLES
from tests.distributed.precisions import PRECISIONS
from tests.distributed.recipes import RECIPES

IN_FP32 = {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
"""Otherwise DeepSpeed rounds the accumulated gradients to bfloat16 while it adds them up."""

OF_TIED = 0.1
"""One process adds up the gradients of a tied weight in bfloat16, and the stages in float32. Where
one is about zero, AdamW steps as far as elsewhere, in a direction that rounding decides."""


@dataclass(frozen=True)
class PipelineCase:
    """A model, an optimizer, and the settings of the engine."""

    model: str
    optimizer: str
    stage: int
    precision: str = "fp32"
    accumulation: int = 1
    clipping: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    pipeline_stages: int = 2
    tolerance: float = 1e-4

    @property
    def name(self) -> str:
        """For ``job_id``."""
        return " ".join(
            [
                self.model,
                self.optimizer,
                f"stage{self.stage}",
                self.precision,
                f"accumulation{self.accumulation}",
                f"clipping{self.clipping:g}",
                *(f"{key} {value}" for key, value in self.extra.items()),
                *[f"{self.pipeline_stages} stages"] * (self.pipeline_stages != 2),
            ]
        )

    def config(self, **more: Any) -> dict[str, Any]:
        """The JSON."""
        return {
            "train_micro_batch_size_per_gpu": SAMPLES,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clipping,
            "zero_optimization": {"stage": self.stage},
            "optimizer": RECIPES[self.optimizer].config,
            **PRECISIONS[self.precision],
            **self.extra,
            **more,
        }


ON_2 = [
    PipelineCase("untied", "SWAN", 0),
    PipelineCase("untied", "PolarGrad", 0, accumulation=3, clipping=0.05),
    PipelineCase("untied", "PolarGrad polar first", 1, accumulation=3, clipping=0.05),
    PipelineCase("untied", "MuonPower", 1, accumulation=2, clipping=0.05),
    PipelineCase("untied", "AdamPower", 1, clipping=0.05),
    PipelineCase("tied", "PolarGrad", 0, accumulation=2, clipping=0.05),
    PipelineCase("tied", "SWAN", 1, accumulation=2, clipping=0.05),
    PipelineCase("tied matrix", "PolarGrad", 1, accumulation=2, clipping=0.05),
    PipelineCase("no matrix on the last stage", "SWAN", 0, clipping=0.05),
    PipelineCase("no matrix on the last stage", "PolarGrad", 1, clipping=0.05),
    PipelineCase("a copy alone on the last stage", "SWAN", 1, clipping=0.05),
    PipelineCase(
        "a copy alone on the last stage", "SWAN", 1, "bf16", 2, 0.05, IN_FP32, tolerance=OF_TIED
    ),
    PipelineCase("tied", "SWAN", 1, "bf16", 1, 0.05),
    PipelineCase("untied", "SWAN", 1, "bf16", 3, 0.05, IN_FP32),
    PipelineCase("tied", "SWAN", 1, "fp16", 1, 0.05),
    PipelineCase("no matrix on the last stage", "PolarGrad", 1, "fp16", 1, 0.05),
]
"""Two stages, each on one rank."""

ON_4 = [
    PipelineCase("untied", "PolarGrad", 0, accumulation=2, clipping=0.05),
    PipelineCase("untied", "SWAN", 1, accumulation=2, clipping=0.05),
    PipelineCase("tied", "MuonPower", 0, accumulation=2, clipping=0.05),
    PipelineCase("tied", "PolarGrad", 1, accumulation=2, clipping=0.05),
    PipelineCase("tied matrix", "SWAN", 1, accumulation=2, clipping=0.05),
    PipelineCase("no matrix on the last stage", "PolarGrad", 1, clipping=0.05),
    PipelineCase("tied", "PolarGrad", 1, "bf16", 2, 0.05, IN_FP32, tolerance=OF_TIED),
    PipelineCase("tied", "PolarGrad", 1, accumulation=2, clipping=0.05, pipeline_stages=4),
]
"""Two stages on two data-parallel ranks each, and four stages."""
