"""The settings of a benchmark of the optimizer step."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gradopt_ds.experiments.step_benchmark.optimizers import BASELINE, NAMES


class BenchSettings(BaseModel):
    """Settings of a benchmark: one field, one flag of ``scripts/bench_step.py``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = Field(description="transformers JSON of the model, or its name in configs/models")
    stage: int = Field(default=3, ge=1, le=3, description="ZeRO stage: 1, 2 or 3")
    ranks: int = Field(default=2, ge=1, description="local ranks, and devices where there are any")
    optimizers: str = Field(
        default="AdamW,DeepSpeedMuon,MatrixMuon,SWAN,PolarGrad",
        description=f"comma-separated, {BASELINE} among them; known are {', '.join(NAMES)}",
    )
    oracle: Literal["newton_schulz", "gram_newton_schulz"] | None = Field(
        default=None, description="Muon's oracle; the faster of the two by default"
    )
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the weights")
    tokens: int = Field(default=32, ge=2, description="tokens of the one sequence per rank")
    repeats: int = Field(default=5, ge=1, description="rounds; each measures every optimizer once")
    steps: int = Field(default=2, ge=1, description="timed steps of a round, after one warm-up")
    output: Path = Field(default=Path("runs/bench_step"), description="directory of the results")

    @field_validator("optimizers")
    @classmethod
    def _known(cls, value: str) -> str:
        names = value.split(",")
        if unknown := [name for name in names if name not in NAMES]:
            raise ValueError(f"unknown {', '.join(unknown)}; known are {', '.join(NAMES)}")
        if BASELINE not in names or len(set(names)) != len(names):
            raise ValueError(f"name each optimizer once, and {BASELINE}: its backward is common")
        return value

    @property
    def names(self) -> list[str]:
        """The optimizers, in the order of the table."""
        return self.optimizers.split(",")
