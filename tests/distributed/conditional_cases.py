"""Layers that a step does not use, at every stage: cases of the exactness matrix."""

from tests.distributed.cases import (
    BF16_ACCUMULATING_IN_FP32,
    EVERY_PARAMETER_PARTITIONED,
    ON_CPU,
    STOCHASTIC,
    Case,
)

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
