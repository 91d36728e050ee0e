"""What decides how many bytes a rank holds, apart from model and optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gradopt_ds.integration.parallel.on_paper import (
    ExpertParallel,
    Pipeline,
    PipelinePartition,
    TensorParallel,
    TensorParallelPreset,
    check_parallel,
)

PrecisionName = Literal["fp32", "bf16", "bf16-fp32-gradients", "pure-bf16", "fp16"]


@dataclass(frozen=True)
class Precision:
    """The dtypes of one precision mode.

    Attributes:
        weights: of the model, and of what is communicated.
        masters: of what the optimizer steps on, and of its state.
        gradients: that are accumulated.
        config: what the DeepSpeed JSON says for it.
    """

    weights: torch.dtype
    masters: torch.dtype
    gradients: torch.dtype
    config: Mapping[str, Any] = field(default_factory=dict)


PRECISIONS: Mapping[PrecisionName, Precision] = {
    "fp32": Precision(torch.float32, torch.float32, torch.float32),
    "bf16": Precision(torch.bfloat16, torch.float32, torch.bfloat16, {"bf16": {"enabled": True}}),
    "bf16-fp32-gradients": Precision(
        torch.bfloat16,
        torch.float32,
        torch.float32,
        {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
    ),
    "pure-bf16": Precision(
        torch.bfloat16,
        torch.bfloat16,
        torch.bfloat16,
        {
            "bf16": {
                "enabled": True,
                "bf16_master_weights_and_grads": True,
                "bf16_optimizer_states": True,
            }
        },
    ),
    "fp16": Precision(torch.float16, torch.float32, torch.float16, {"fp16": {"enabled": True}}),
}


class Setup(BaseModel):
    """ZeRO, precision and batch. Defaults are DeepSpeed's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: int = Field(default=2, ge=0, le=3, description="ZeRO stage: 0 to 3")
    ranks: int = Field(
        default=1,
        ge=1,
        description="data-parallel ranks: of every stage, and of every tensor-parallel rank",
    )
    precision: PrecisionName = Field(
        default="bf16",
        description="bf16 and fp16 have fp32 masters; in pure-bf16 weights, masters, "
        "gradients and state are bfloat16; bf16-fp32-gradients accumulates gradients in fp32",
    )
    micro_batch: int = Field(default=1, ge=1, description="sequences per rank and forward pass")
    accumulation: int = Field(default=1, ge=1, description="forward passes per optimizer step")
    sequence_length: int = Field(default=256, ge=1, description="tokens per sequence")
    checkpointing: bool = Field(
        default=False, description="recompute every layer in the backward pass"
    )
    reduce_bucket_size: int = Field(
        default=500_000_000, gt=0, description="elements of ZeRO's bucket for gradients"
    )
    overlap_comm: bool | None = Field(
        default=None, description="two buckets at stages 1 and 2, where the default is one"
    )
    sub_group_size: int = Field(
        default=1_000_000_000, gt=0, description="elements of a sub-group, stage 3"
    )
    param_persistence_threshold: int = Field(
        default=100_000, ge=0, description="stage 3 never lets go of parameters up to this size"
    )
    max_live_parameters: int = Field(
        default=1_000_000_000, ge=0, description="elements that stage 3 keeps gathered at a time"
    )
    offload_optimizer: bool = Field(
        default=False, description="masters, state and their gradients in the host's memory"
    )
    offload_param: bool = Field(
        default=False, description="stage 3: this rank's part of the weights in the host's memory"
    )
    expert_parallel: ExpertParallel = 1
    tensor_parallel: TensorParallel = 1
    tensor_parallel_preset: TensorParallelPreset = None
    pipeline: Pipeline = 1
    pipeline_partition: PipelinePartition = "parameters"

    @model_validator(mode="after")
    def _possible(self) -> "Setup":
        if self.stage == 0 and self.precision in ("pure-bf16", "bf16-fp32-gradients"):
            raise ValueError(f"DeepSpeed has no {self.precision} at stage 0: take stage 1, 2 or 3")
        if self.offload_optimizer and self.stage == 0:
            raise ValueError("DeepSpeed offloads the optimizer at stages 1 to 3 only")
        if self.offload_optimizer and self.precision == "pure-bf16":
            raise ValueError(
                "pure-bf16 with offload_optimizer is refused: DeepSpeed has it for "
                "its own CPUAdam alone"
            )
        if self.offload_optimizer and self.precision == "bf16-fp32-gradients":
            raise ValueError(
                "bf16-fp32-gradients with offload_optimizer has not been measured: take bf16"
            )
        if self.offload_param and self.stage != 3:
            raise ValueError("offload_param needs stage 3")
        check_parallel(
            self.stage, self.ranks, self.tensor_parallel, self.pipeline, self.expert_parallel
        )
        if self.offload_optimizer and self.processes > self.ranks:
            raise ValueError(
                "offload_optimizer has not been measured with tensor_parallel or pipeline above 1"
            )
        return self

    @property
    def processes(self) -> int:
        """All ranks: of every stage, and of every tensor-parallel rank."""
        return self.ranks * self.tensor_parallel * self.pipeline

    @property
    def dtypes(self) -> Precision:
        """The dtypes of ``precision``."""
        return PRECISIONS[self.precision]

    def engine_config(self, optimizer: Mapping[str, Any]) -> dict[str, Any]:
        """Write the DeepSpeed JSON of this setup, for engines that are to be measured.

        Args:
            optimizer: the ``"optimizer"`` block.

        Raises:
            ValueError: pipeline stages, which a model brings with it.
        """
        if self.pipeline > 1:
            raise ValueError("pipeline is set in a PipelineModule, not in a DeepSpeed JSON")
        zero: dict[str, Any] = {"stage": self.stage, "reduce_bucket_size": self.reduce_bucket_size}
        if self.overlap_comm is not None:
            zero["overlap_comm"] = self.overlap_comm
        if self.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.offload_param:
            zero["offload_param"] = {"device": "cpu"}
        if self.stage == 3:
            zero |= {
                "sub_group_size": self.sub_group_size,
                "stage3_param_persistence_threshold": self.param_persistence_threshold,
                "stage3_max_live_parameters": self.max_live_parameters,
            }
        return {
            "train_micro_batch_size_per_gpu": self.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "steps_per_print": 2**31,
            "zero_optimization": zero,
            "optimizer": dict(optimizer),
            **self.dtypes.config,
            **self._auto_ep,
            **self._auto_tp,
        }

    @property
    def _auto_ep(self) -> dict[str, Any]:
        if self.expert_parallel == 1:
            return {}
        experts = {"enabled": True, "autoep_size": self.expert_parallel}
        # Stage 0 would be refused with DeepSpeed's default, which changes no byte.
        return {"expert_parallel": experts, "gradient_clipping": 0.0}

    @property
    def _auto_tp(self) -> dict[str, Any]:
        if self.tensor_parallel == 1:
            return {}
        preset = self.tensor_parallel_preset
        named = {} if preset is None else {"preset_model": preset}
        return {"tensor_parallel": {"autotp_size": self.tensor_parallel, **named}}
