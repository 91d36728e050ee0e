"""The exactness matrix: what is run on real engines, and by which rule it is judged."""

from dataclasses import dataclass, field
from typing import Any

from tests.reference import Rule

AUX = {"lr": 0.01, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.1}
AUX_RULE = Rule("AdamW", lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)


@dataclass(frozen=True)
class Recipe:
    """An optimizer as the JSON writes it, and as the reference knows it."""

    config: dict[str, Any]
    matrices: Rule
    others: Rule


def _recipe(config: dict[str, Any], matrices: Rule, others: Rule | None = None) -> Recipe:
    return Recipe(config, matrices, others or AUX_RULE)


def _power(rule: Rule, power: float) -> Rule:
    return Rule(**{**vars(rule), "power": power})


_SWAN = {"lr": 0.2, "alpha": 0.1, "weight_decay": 0.1, "oracle": "svd", "aux": AUX}
_SWAN_RULE = Rule("SWAN", lr=0.2, alpha=0.1, weight_decay=0.1)
_POLAR = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1, "oracle": "svd", "aux": AUX}
_POLAR_RULE = Rule("PolarGrad", lr=0.1, momentum=0.8, weight_decay=0.1)
_MUON_RULE = Rule("PolarGrad", lr=0.1, momentum=0.8, scale="none", nesterov=True)
_ADAM = {"lr": 0.01, "betas": [0.9, 0.99], "weight_decay": 0.1}
_ADAM_RULE = Rule("AdamW", lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, power=1.2)

RECIPES = {
    "SWAN": _recipe({"type": "SWAN", "params": _SWAN}, _SWAN_RULE),
    "SWANPower": _recipe(
        {"type": "SWAN", "params": {**_SWAN, "power": 0.9}},
        _power(_SWAN_RULE, 0.9),
        _power(AUX_RULE, 0.9),
    ),
    "PolarGrad": _recipe({"type": "PolarGrad", "params": _POLAR}, _POLAR_RULE),
    "PolarGrad polar first": _recipe(
        {"type": "PolarGrad", "params": {**_POLAR, "momentum_order": "polar_first"}},
        Rule(**{**vars(_POLAR_RULE), "momentum_order": "polar_first"}),
    ),
    "PolarGrad spectral": _recipe(
        {"type": "PolarGrad", "params": {**_POLAR, "scale": "spectral", "momentum": 0.0}},
        Rule(**{**vars(_POLAR_RULE), "scale": "spectral", "momentum": 0.0}),
    ),
    "MuonPower": _recipe(
        {
            "type": "MuonPower",
            "params": {"lr": 0.1, "momentum": 0.8, "oracle": "svd", "aux": AUX, "power": 1.2},
        },
        _power(_MUON_RULE, 1.2),
        _power(AUX_RULE, 1.2),
    ),
    "AdamPower": _recipe({"type": "AdamPower", "params": _ADAM}, _ADAM_RULE, _ADAM_RULE),
    "GradPower of SWAN": _recipe(
        {"type": "GradPower", "params": {"power": 1.2, "base": {"type": "SWAN", "params": _SWAN}}},
        _power(_SWAN_RULE, 1.2),
        _power(AUX_RULE, 1.2),
    ),
}


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

    @property
    def name(self) -> str:
        """What pytest calls it."""
        options = [f"{key}={value}" for key, value in {**self.zero, **self.extra}.items()]
        return ", ".join(
            [
                self.optimizer,
                f"stage {self.stage}",
                self.precision,
                f"accumulation {self.accumulation}",
                f"clipping {self.clipping:g}",
                *options,
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

EVERY_OPTIMIZER = [
    Case(optimizer, stage, precision, 2, 0.05)
    for optimizer in RECIPES
    if optimizer not in ("SWAN", "PolarGrad")
    for stage, precision in ((0, "fp32"), (1, "bf16"), (2, "fp32"), (2, "fp16"))
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

CASES = [*GRID, *EVERY_OPTIMIZER, *OPTIONS]
