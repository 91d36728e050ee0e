"""The settings of ``scripts/memory.py``."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.json_file import load
from gradopt_ds.memory.deepspeed_json import read_setup
from gradopt_ds.memory.optimizers import BLOCKS
from gradopt_ds.memory.setup import Setup

FROM_JSON = "JSON: "


class _Common(Setup):
    model: Path = Field(description="transformers JSON of the model, or its name in configs/models")
    optimizers: str = Field(
        default="AdamW,MatrixMuon,PolarGrad,SWAN,SinkGD",
        description="comma-separated; the others are compared with the first; known are "
        f"{', '.join(BLOCKS)}",
    )
    deepspeed_config: Path | None = Field(
        default=None,
        description="DeepSpeed JSON: its optimizer is set beside the others, and its stage, "
        "precision, batch and offload hold where no flag says otherwise",
    )
    output: Path = Field(default=Path("runs/memory"), description="directory of the results")

    @field_validator("optimizers")
    @classmethod
    def _known(cls, value: str) -> str:
        if unknown := [name for name in value.split(",") if name and name not in BLOCKS]:
            raise ValueError(f"unknown {', '.join(unknown)}; known are {', '.join(BLOCKS)}")
        return value

    @property
    def setup(self) -> Setup:
        """ZeRO, precision and batch alone."""
        return Setup(**self.model_dump(include=set(Setup.model_fields)))

    @property
    def blocks(self) -> dict[str, dict[str, Any]]:
        """Names → ``"optimizer"`` blocks, in the order of the table."""
        chosen = {name: BLOCKS[name] for name in self.optimizers.split(",") if name}
        if self.deepspeed_config is not None:
            block = load(self.deepspeed_config).get("optimizer")
            if block is None:
                raise PretrainError(f'{self.deepspeed_config} names no "optimizer"')
            chosen[FROM_JSON + str(block.get("type"))] = block
        return chosen


class EstimateSettings(_Common):
    """Settings of ``estimate``."""

    card: float | None = Field(
        default=None, gt=0, description="GiB of a card: also find the largest LLaMA that fits it"
    )


class MeasureSettings(_Common):
    """Settings of ``measure``."""

    steps: int = Field(default=2, ge=1, description="optimizer steps")

    @model_validator(mode="after")
    def _measurable(self) -> "MeasureSettings":
        if self.pipeline > 1:
            raise ValueError(
                "pipeline is estimated, not measured: transformers has no PipelineModule"
            )
        return self


class PaperSettings(BaseModel):
    """Settings of ``paper``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Path = Field(default=Path("runs/memory"), description="directory of the results")


def with_json(flags: dict[str, Any]) -> dict[str, Any]:
    """Complete flags by the DeepSpeed JSON that one of them names.

    Raises:
        PretrainError: the JSON cannot be read, or says what cannot be estimated.
    """
    path = flags.get("deepspeed_config")
    if path is None:
        return flags
    try:
        return {**read_setup(load(path), flags.get("ranks", 1)), **flags}
    except (ValueError, OSError) as error:
        raise PretrainError(f"--deepspeed_config {path}: {error}") from None
