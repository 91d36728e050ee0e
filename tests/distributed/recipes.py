"""Optimizers as the JSON writes them, and the rules by which they are judged."""

from dataclasses import dataclass
from typing import Any

from tests.reference import Rule, newton_schulz

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
_MUON_RULE = Rule("PolarGrad", lr=0.1, momentum=0.8, scale="spectral", nesterov=True)
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
    "SinkGD": _recipe(
        {"type": "SinkGD", "params": {"lr": 0.2, "alpha": 0.1, "weight_decay": 0.1, "aux": AUX}},
        Rule("SinkGD", lr=0.2, alpha=0.1, weight_decay=0.1),
    ),
    "AdamPower": _recipe({"type": "AdamPower", "params": _ADAM}, _ADAM_RULE, _ADAM_RULE),
    "GradPower of SWAN": _recipe(
        {"type": "GradPower", "params": {"power": 1.2, "base": {"type": "SWAN", "params": _SWAN}}},
        _power(_SWAN_RULE, 1.2),
        _power(AUX_RULE, 1.2),
    ),
}

RECIPES |= {
    "Muon by Newton-Schulz": _recipe(
        {"type": "PolarGrad", "params": {
            "lr": 0.1, "momentum": 0.8, "scale": "spectral", "nesterov": True, "aux": AUX,
        }},
        Rule(**{**vars(_MUON_RULE), "polar": newton_schulz}),
    ),
    "SWAN by Newton-Schulz": _recipe(
        {"type": "SWAN", "params": _SWAN}, Rule(**{**vars(_SWAN_RULE), "polar": newton_schulz})
    ),
}  # fmt: skip
