"""The exactness matrix: what is run on real engines, and by which rule it is judged."""

from dataclasses import dataclass, field
from typing import Any

from tests.distributed.moe_model import HEADS_SPLIT
from tests.distributed.recipes import AUX_RULE, RECIPES


@dataclass(frozen=True)
class Case:
    """One engine configuration of the exactness matrix."""

    optimizer: str
    stage: int
    precision: str = "fp32"
    accumulation: int = 1
    clipping: float = 0.0
    zero: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    zero_init: bool = False
    model: str = "dense"
    tolerance: float = 1e-4
    """Relative error of an update; with bfloat16 weights units in the last place of a weight."""

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The ``optimizer`` of the JSON."""
        config = RECIPES[self.optimizer].config
        return {**config, "params": {**config["params"], **self.params}}

    @property
    def rule(self) -> dict[str, Any]:
        """Which of ``params`` the reference must know."""
        return {key: value for key, value in self.params.items() if key in vars(AUX_RULE)}

    @property
    def name(self) -> str:
        """What pytest calls it, once ``job_id`` has made words of it."""
        options = {**self.zero, **self.extra, **self.params}
        return " ".join(
            [
                *([] if self.model == "dense" else [self.model]),
                self.optimizer,
                f"stage{self.stage}",
                self.precision,
                f"accumulation{self.accumulation}",
                f"clipping{self.clipping:g}",
                *(f"{key} {value}" for key, value in options.items()),
                *["zero.Init"] * self.zero_init,
            ]
        )


GRID = [
    Case(optimizer, stage, precision, accumulation, clipping)
    for optimizer in ("SWAN", "PolarGrad")
    for stage in (0, 1, 2)
    for precision in ("fp32", "bf16", "fp16")
    for accumulation in (1, 3)
    for clipping in (0.0, 0.05)
]
"""Stage × precision × accumulation × clipping, with and without momentum."""

EVERY_PARAMETER_PARTITIONED = {"stage3_param_persistence_threshold": 0}
"""By default a model as small as the tests' stays whole on every rank, even under stage 3."""

STAGE_3 = [
    Case(
        optimizer,
        3,
        precision,
        accumulation,
        clipping,
        zero=EVERY_PARAMETER_PARTITIONED,
        zero_init=zero_init,
    )
    for optimizer, zero_init in (("SWAN", True), ("PolarGrad", False))
    for precision in ("fp32", "bf16", "fp16")
    for accumulation in (1, 3)
    for clipping in (0.0, 0.05)
]
"""The same for stage 3, built normally and under ``deepspeed.zero.Init``."""

EVERY_OPTIMIZER = [
    Case(optimizer, stage, precision, 2, 0.05)
    for optimizer in RECIPES
    if optimizer not in ("SWAN", "PolarGrad") and "by Newton-Schulz" not in optimizer
    for stage, precision in ((0, "fp32"), (1, "bf16"), (2, "fp32"), (2, "fp16"), (3, "bf16"))
]

BF16_ACCUMULATING_IN_FP32 = {"data_types": {"grad_accum_dtype": "fp32"}}

OPTIONS = [
    Case("PolarGrad", 1, zero={"round_robin_gradients": True}),
    Case("SWAN", 2, zero={"round_robin_gradients": True}, accumulation=2, clipping=0.05),
    Case("PolarGrad", 2, zero={"parameter_alignment": True}),
    Case("SWAN", 2, zero={"round_robin_gradients": True, "parameter_alignment": True}),
    Case("SWAN", 1, zero={"contiguous_gradients": False}),
    Case("SWAN", 2, zero={"reduce_scatter": False}),
    Case("SWAN", 2, zero={"overlap_comm": True}),
    Case("PolarGrad", 1, zero={"reduce_bucket_size": 100, "allgather_bucket_size": 100}),
    Case("SWAN", 1, "bf16", 3, 0.05, extra=BF16_ACCUMULATING_IN_FP32),
    Case("PolarGrad", 1, "bf16", 1, 0.05, extra=BF16_ACCUMULATING_IN_FP32),
    Case("MuonPower", 1, "bf16", 2, 0.0, extra=BF16_ACCUMULATING_IN_FP32),
    Case("PolarGrad", 2, "bf16", 3, 0.05, extra=BF16_ACCUMULATING_IN_FP32),
]
"""Settings that move elements around, and the wrapper with names of its own (BF16_Optimizer)."""

STAGE_3_OPTIONS = [
    Case("PolarGrad", 3, zero={**EVERY_PARAMETER_PARTITIONED, "sub_group_size": 150}),
    Case("SWAN", 3, "bf16", 2, 0.05, zero={"sub_group_size": 60}, zero_init=True),
    Case("SWAN", 3, zero={"stage3_param_persistence_threshold": 200}, accumulation=2),
    Case("PolarGrad", 3, zero={**EVERY_PARAMETER_PARTITIONED, "reduce_scatter": False}),
    Case("PolarGrad", 3, zero={**EVERY_PARAMETER_PARTITIONED, "overlap_comm": True}),
    Case("SWAN", 3, zero={**EVERY_PARAMETER_PARTITIONED, "contiguous_gradients": False}),
    Case("SWAN", 3, zero={**EVERY_PARAMETER_PARTITIONED, "reduce_bucket_size": 100,
                          "stage3_prefetch_bucket_size": 50}),
]  # fmt: skip
"""Sub-groups of one or two matrices, parameters that stay whole, and the ways of reducing."""

ON_CPU = {"device": "cpu"}
OFFLOAD = [
    *(
        Case(optimizer, stage, precision, accumulation, 0.05, zero={"offload_optimizer": ON_CPU})
        for optimizer in ("SWAN", "PolarGrad")
        for stage in (1, 2, 3)
        for precision, accumulation in (("fp32", 1), ("bf16", 3))
    ),
    Case("MuonPower", 3, "bf16", 2, 0.05, zero={
        "offload_optimizer": ON_CPU, "offload_param": ON_CPU, **EVERY_PARAMETER_PARTITIONED,
    }),
    Case("PolarGrad", 3, "fp32", zero={
        "offload_param": ON_CPU, **EVERY_PARAMETER_PARTITIONED,
    }, zero_init=True),
    Case("AdamPower", 2, "bf16", 2, 0.05, zero={"offload_optimizer": ON_CPU}),
]  # fmt: skip
"""Slices, or weights too, in the host's memory."""

HEADS = {"split": HEADS_SPLIT}
SMALL_BUCKETS = {"exchange_bucket_size": 12 * 4 * 150}
ROWS = {"exchange_strategy": {"*.up.weight": "gram", "*.square.weight": "gram"}, "oracle": "eigh"}
ROWS_OF_EXPERTS = {"exchange_strategy": {"*.experts.down_proj": "gram"}, "oracle": "eigh"}
EXCHANGE = [
    *(Case("PolarGrad", stage, params=SMALL_BUCKETS) for stage in (2, 3)),
    *(Case(optimizer, stage, "bf16", 2, 0.05, params=ROWS)
      for optimizer in ("SWAN", "PolarGrad") for stage in (1, 2, 3)),
    Case("SWAN", 3, params={**ROWS, **SMALL_BUCKETS}, zero={"sub_group_size": 150}),
    Case("PolarGrad polar first", 3, params=SMALL_BUCKETS),
    *(Case("PolarGrad", stage, params={"communication_data_type": "bf16"}, tolerance=2e-2)
      for stage in (2, 3)),
]  # fmt: skip
"""Several rounds, matrices that stay cut, pieces that travel in bfloat16."""

STOCHASTIC = {"stochastic_rounding": True}
PURE_BF16 = [
    Case(optimizer, stage, "pure bf16", 2, params=params, tolerance=tolerance)
    for stage in (1, 2, 3)
    for optimizer, params, tolerance in (
        ("SWAN", {}, 2.5),
        ("SWAN", STOCHASTIC, 2.5),
        ("PolarGrad", {"momentum": 0.0}, 2.5),
        ("PolarGrad", STOCHASTIC, 12.0),
    )
]
"""Masters, gradients and state in bfloat16. The error is counted in units of a weight's last place,
since every weight is rounded; rounded momentum costs as much as the polar factor makes of it."""

MIXTURE = [
    *(Case(optimizer, stage, precision, accumulation, clipping, model="Qwen2MoE",
           zero=EVERY_PARAMETER_PARTITIONED if stage == 3 else {})
      for stage in (0, 1, 2, 3)
      for optimizer, precision, accumulation, clipping in (
          ("SWAN", "fp32", 2, 0.05), ("PolarGrad", "bf16", 1, 0.0), ("PolarGrad", "fp32", 1, 0.0),
      )),
    *(Case(optimizer, stage, "fp32", 2, 0.05, model="Qwen2MoE")
      for optimizer in ("MuonPower", "SinkGD", "PolarGrad polar first", "AdamPower")
      for stage in (2, 3)),
    Case("SWAN", 0, "fp16", model="Qwen2MoE"),
    Case("SWAN", 2, "fp16", 2, 0.05, model="Qwen2MoE"),
    Case("PolarGrad", 3, "bf16", 2, model="Qwen2MoE", zero_init=True,
         zero={**EVERY_PARAMETER_PARTITIONED, "sub_group_size": 600}),
    Case("SWAN", 1, "bf16", model="Qwen2MoE", extra=BF16_ACCUMULATING_IN_FP32),
    Case("SWAN", 2, model="Qwen2MoE", zero={"round_robin_gradients": True}),
    Case("PolarGrad", 2, model="Qwen2MoE", zero={"offload_optimizer": ON_CPU}),
    *(Case("PolarGrad", stage, model="Qwen2MoE", params=HEADS) for stage in (0, 2, 3)),
    *(Case("SWAN", stage, model="Qwen2MoE", params={**SMALL_BUCKETS, **ROWS_OF_EXPERTS})
      for stage in (2, 3)),
    Case("PolarGrad", 3, "pure bf16", 2, model="Qwen2MoE", params=STOCHASTIC, tolerance=12.0),
]  # fmt: skip
"""Experts stacked in 3-D tensors, cut anywhere; split heads; matrices of experts that stay cut."""

AUTOCAST = [
    Case(optimizer, stage, "autocast", 2, 0.05)
    for optimizer in ("SWAN", "PolarGrad")
    for stage in (0, 1, 2, 3)
]
"""fp32 weights, forward and backward in bfloat16 by torch."""

AUTOCAST_FP16 = [
    Case(optimizer, 0, "fp16 autocast", 2, 0.05) for optimizer in ("SWAN", "PolarGrad")
]
"""In float16, with torch's scaler of the loss."""

UNUSED_LAYERS = [
    *(Case(optimizer, stage, precision, accumulation, 0.05, model="conditional")
      for optimizer, precision, accumulation in (
          ("SWAN", "fp32", 2), ("PolarGrad", "bf16", 2), ("PolarGrad", "fp32", 1),
          ("AdamPower", "fp32", 2),
      )
      for stage in (0, 1, 2)),
    *(Case(optimizer, 3, precision, accumulation, 0.05, model="conditional", zero_init=zero_init,
           zero={**EVERY_PARAMETER_PARTITIONED, **zero})
      for optimizer, precision, accumulation, zero_init, zero in (
          ("SWAN", "fp32", 1, False, {}),
          ("SWAN", "fp32", 2, True, {"sub_group_size": 150}),
          ("SinkGD", "fp16", 2, False, {}),
          ("PolarGrad", "bf16", 2, False, {"reduce_scatter": False}),
          ("PolarGrad", "fp32", 2, False, {"contiguous_gradients": False}),
          ("AdamPower", "fp32", 2, False, {}),
          ("GradPower of SWAN", "fp32", 2, False, {"reduce_bucket_size": 100}),
      )),
    *(Case(optimizer, stage, precision, accumulation, 0.05, model="conditional",
           zero={"offload_optimizer": ON_CPU})
      for stage in (1, 2, 3)
      for optimizer, precision, accumulation in (
          ("SWAN", "fp32", 1), ("PolarGrad", "fp32", 2), ("SWAN", "bf16", 2),
      )),
    Case("PolarGrad", 3, "bf16", 2, 0.05, model="conditional", zero_init=True, zero={
        "offload_optimizer": ON_CPU, "offload_param": ON_CPU, "sub_group_size": 150,
    }),
    *(Case("PolarGrad", stage, "bf16", 2, 0.05, model="conditional",
           extra=BF16_ACCUMULATING_IN_FP32) for stage in (1, 2)),
    Case("SWAN", 2, "bf16", 2, 0.05, model="conditional", extra=BF16_ACCUMULATING_IN_FP32,
         zero={"offload_optimizer": ON_CPU}),
    *(Case("SWAN", stage, "pure bf16", 2, model="conditional", params=STOCHASTIC, tolerance=2.5)
      for stage in (1, 2, 3)),
    *(Case("SWAN", stage, "autocast", 2, 0.05, model="conditional") for stage in (0, 3)),
]  # fmt: skip
"""A branch and experts that a step, or some of its micro-batches, do not use."""

INTERWOVEN = [
    Case(optimizer, stage, model="interwoven",
         zero=EVERY_PARAMETER_PARTITIONED if stage == 3 else {})
    for optimizer in ("SWAN", "PolarGrad spectral")
    for stage in (1, 3)
]  # fmt: skip
"""Queries, keys and values head by head, and weights that are stored transposed."""

ROWS_OF_UP = {"exchange_strategy": {"*.up.weight": "gram", "*.square.weight": "gram"}}
COMPUTE_DTYPES = [
    Case(f"{optimizer} by Newton-Schulz", stage, precision, params={
        "oracle": {"type": "newton_schulz", "dtype": dtype}, **more,
    }, tolerance=tolerance)
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 0.39))
    for optimizer in ("Muon", "SWAN")
    for stage, precision, more in ((0, "fp32", {}), (2, "bf16", ROWS_OF_UP), (3, "fp32", {}))
]  # fmt: skip
"""An iteration in either compute dtype, on every machine, against the same one in float64.

A step multiplies what rounding has left by up to 3.4445, so five steps in bfloat16 are off by up to
2^-9 (1 + 3.4445 + … + 3.4445^4) = 0.39. Measured is 0.07 to 0.17, with native and with emulated
products, and the same at stage 0, where every process has whole matrices, as at stages 2 and 3."""

CASES = [
    *GRID,
    *STAGE_3,
    *EVERY_OPTIMIZER,
    *OPTIONS,
    *STAGE_3_OPTIONS,
    *OFFLOAD,
    *EXCHANGE,
    *PURE_BF16,
    *MIXTURE,
    *AUTOCAST,
    *AUTOCAST_FP16,
    *UNUSED_LAYERS,
    *INTERWOVEN,
    *COMPUTE_DTYPES,
]
