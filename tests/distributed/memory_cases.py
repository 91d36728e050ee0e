"""Engines whose memory is estimated and measured."""

from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig

from gradopt_ds.experiments.common import models
from tests.conftest import ROOT

SMALL = {
    "vocab_size": 130,
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 32,
}
SHAPES = {
    "llama": lambda: AutoConfig.for_model("llama", **SMALL),
    "tied llama": lambda: AutoConfig.for_model("llama", **SMALL, tie_word_embeddings=True),
    "qwen2_moe": lambda: AutoConfig.for_model("qwen2_moe", **SMALL, **EXPERTS),
    "60m": lambda: models.model_config(ROOT / "configs/models/60m.json"),
}


@dataclass(frozen=True)
class Case:
    """A model, an optimizer, and what ``Setup`` takes besides."""

    shape: str
    optimizer: str
    stage: int
    precision: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For ``job_id``."""
        more = [f"{key} {value}" for key, value in self.more.items()]
        return " ".join([self.shape, self.optimizer, f"stage{self.stage}", self.precision, *more])


STAGES = [(0, "fp32"), (0, "bf16"), (1, "fp32"), (1, "bf16"), (1, "bf16-fp32-gradients"),
          (2, "bf16"), (2, "bf16-fp32-gradients"), (2, "pure-bf16"), (3, "fp32"), (3, "bf16"),
          (3, "pure-bf16")]  # fmt: skip
PARTITIONED = {"param_persistence_threshold": 500, "sub_group_size": 6000}
SPREAD = {"expert_parallel": 2}
CUT = {"tensor_parallel": 2}
CASES = {
    1: [Case("llama", "SWAN", *stage) for stage in STAGES[::2]]
    + [
        Case("60m", "SWAN", 2, "bf16"),
        Case("llama", "SWANPower", 0, "fp32"),
        Case("llama", "AdamPower", 0, "bf16"),
        Case("llama", "SWANPower", 1, "bf16-fp32-gradients"),
    ],
    2: [Case("llama", "PolarGrad", *stage) for stage in STAGES]
    + [
        Case("tied llama", "AdamW", 2, "bf16"),
        Case("tied llama", "SWAN", 3, "bf16", more=PARTITIONED),
        Case("qwen2_moe", "AdamW", 1, "bf16"),
        Case("qwen2_moe", "AdamPower", 3, "fp32", more=PARTITIONED),
        Case("qwen2_moe", "PolarGrad", 2, "bf16"),
        Case("qwen2_moe", "PolarGrad", 0, "bf16", more=SPREAD),
        Case("qwen2_moe", "AdamW", 2, "bf16", more=SPREAD),
        Case("qwen2_moe", "PolarGrad", 3, "bf16", more=SPREAD),
        *(Case("llama", "AdamW", *stage, more=CUT) for stage in STAGES[1:8:2]),
        Case("tied llama", "AdamW", 0, "fp32", more=CUT),
        Case("qwen2_moe", "AdamW", 2, "bf16", more={**CUT, "tensor_parallel_preset": "qwen2"}),
        Case("llama", "PolarGrad", 1, "bf16", {"accumulation": 2}),
        Case("llama", "SWAN", 2, "bf16", {"offload_optimizer": True}),
        Case("llama", "SWAN", 3, "bf16", {"offload_optimizer": True, "offload_param": True}),
    ],
    3: [Case("llama", "AdamW", *stage) for stage in STAGES[1::2]]
    + [
        Case("llama", "SinkGD", 2, "fp32"),
        Case("llama", "MatrixMuon", 3, "bf16", more=PARTITIONED),
        Case("qwen2_moe", "AdamW", 2, "fp32"),
        Case("llama", "AdamW", 1, "bf16", more={"tensor_parallel": 3}),
        Case("qwen2_moe", "SWAN", 3, "bf16"),
    ],
    4: [
        Case("llama", "AdamW", 2, "bf16", more=CUT),
        Case("qwen2_moe", "PolarGrad", 2, "bf16", more=SPREAD),
        Case("qwen2_moe", "SWAN", 3, "bf16", more={**SPREAD, **PARTITIONED}),
    ],
}
"""By number of ranks."""
