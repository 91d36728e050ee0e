"""The settings of a plan on paper."""

import json
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gradopt_ds import optim
from gradopt_ds.integration.parallel.on_paper import (
    ExpertParallel,
    Pipeline,
    PipelinePartition,
    TensorParallel,
    TensorParallelPreset,
    check_parallel,
)
from gradopt_ds.matrices import ExchangeSettings
from gradopt_ds.ops import Oracle, make_oracle


class PlanSettings(BaseModel):
    """Settings of a plan: one field, one flag of ``scripts/plan.py``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = Field(description="transformers JSON of the model, or its name in configs/models")
    stage: int = Field(default=3, ge=1, le=3, description="ZeRO stage: 1, 2 or 3")
    ranks: int = Field(
        default=8,
        ge=1,
        description="data-parallel ranks: of every stage, and of every tensor-parallel rank",
    )
    expert_parallel: ExpertParallel = 1
    tensor_parallel: TensorParallel = 1
    tensor_parallel_preset: TensorParallelPreset = None
    pipeline: Pipeline = 1
    pipeline_partition: PipelinePartition = "parameters"
    optimizer: Literal["Muon", "PolarGrad", "SWAN"] = Field(
        default="Muon", description="whose default oracle counts the FLOPs"
    )
    oracle: str | None = Field(
        default=None, description='another oracle: a name, or JSON {"type": name, …}'
    )
    exchange_bucket_size: int = Field(
        default=ExchangeSettings().exchange_bucket_size,
        gt=0,
        description="bytes that exchange and rule may occupy on a rank at a time",
    )
    communication_data_type: Literal["fp32", "bf16"] = Field(
        default="fp32", description="what the pieces travel in"
    )
    sub_group_size: int = Field(
        default=10**9, gt=0, description="ZeRO's setting of that name, stage 3 only"
    )
    include: str = Field(
        default="", description="comma-separated globs of further matrices, e.g. lm_head.weight"
    )
    output: Path = Field(default=Path("runs/plan"), description="directory of the full table")

    @model_validator(mode="after")
    def _possible(self) -> "PlanSettings":
        check_parallel(
            self.stage, self.ranks, self.tensor_parallel, self.pipeline, self.expert_parallel
        )
        return self

    @field_validator("oracle")
    @classmethod
    def _valid(cls, value: str | None) -> str | None:
        if value is not None:
            make_oracle(_parsed(value))
        return value

    @property
    def chosen_oracle(self) -> Oracle:
        """The oracle that was asked for, or the optimizer's own."""
        if self.oracle is not None:
            return make_oracle(_parsed(self.oracle))
        constructor = signature(getattr(optim, self.optimizer))
        return make_oracle(constructor.parameters["oracle"].default)

    @property
    def patterns(self) -> list[str]:
        """The globs in ``include``."""
        return [pattern for pattern in self.include.split(",") if pattern]

    @property
    def exchange(self) -> ExchangeSettings:
        """The settings of the exchange."""
        return ExchangeSettings(
            exchange_bucket_size=self.exchange_bucket_size,
            communication_data_type=self.communication_data_type,
        )


def _parsed(oracle: str) -> Any:
    return json.loads(oracle) if oracle.lstrip().startswith("{") else oracle
