"""The optimizers that are set side by side, as DeepSpeed configs."""

from dataclasses import dataclass
from typing import Any

from gradopt_ds.integration.registry import OPTIMIZERS
from gradopt_ds.optim import MatrixOptimizer

BASELINE = "AdamW"
RIVAL = "DeepSpeedMuon"
OURS = ("Muon", *OPTIMIZERS)
NAMES = (BASELINE, RIVAL, *OURS)

LR = 1e-20
"""So small that no weight moves: every step of every optimizer sees the same gradients."""

ADAM = {"torch_adam": True, "adam_w_mode": True}
"""torch's AdamW, everywhere: for all parameters, or for those that are not matrices."""

MUON_ORACLES = ("newton_schulz", "gram_newton_schulz")
"""Muon's five quintic steps, plain and on the Gram matrix; DeepSpeed's ``ns_method`` has both."""


@dataclass(frozen=True)
class Contender:
    """One optimizer with one setting.

    Attributes:
        name: one of :data:`NAMES`.
        optimizer: the ``"optimizer"`` block of its DeepSpeed JSON.
        setting: what distinguishes it from the other candidates of that name.
        reduce_scatter: ZeRO's setting of that name.
    """

    name: str
    optimizer: dict[str, Any]
    setting: str = ""
    reduce_scatter: bool = True

    def config(self, stage: int, precision: str) -> dict[str, Any]:
        """The complete DeepSpeed config, one sequence per rank and step."""
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "steps_per_print": 2**31,
            "bf16": {"enabled": precision == "bf16"},
            "zero_optimization": {"stage": stage, "reduce_scatter": self.reduce_scatter},
            "optimizer": self.optimizer,
        }


def candidates(name: str, stage: int, oracle: str | None) -> list[Contender]:
    """The settings in which an optimizer may compete; the fastest of them does.

    Args:
        name: one of :data:`NAMES`.
        stage: the ZeRO stage.
        oracle: of this library's Muon; ``None`` for every one of :data:`MUON_ORACLES`.
    """
    if name == BASELINE:
        return [Contender(name, {"type": "AdamW", "params": {"lr": LR, **ADAM}})]
    if name == RIVAL:
        # Stage 3 refuses its Muon with `reduce_scatter`, which is DeepSpeed's default.
        return [
            Contender(name, _rival(method), f"ns_method={method}", reduce_scatter=stage < 3)
            for method in ("gram", "standard")
        ]
    if name == "Muon":
        wanted = MUON_ORACLES if oracle is None else (oracle,)
        return [Contender(name, _muon(one), f"oracle={one}") for one in wanted]
    aux = {"aux": {"lr": LR}} if issubclass(OPTIMIZERS[name].optimizer, MatrixOptimizer) else {}
    return [Contender(name, {"type": name, "params": {"lr": LR, **aux}})]


def _rival(method: str) -> dict[str, Any]:
    params = {"lr": LR, "momentum": 0.95, "ns_method": method, **ADAM}
    return {"type": "Muon", "params": params}


def _muon(oracle: str) -> dict[str, Any]:
    # In DeepSpeed's JSON "Muon" is DeepSpeed's own; the first power of a gradient is the gradient.
    params = {"lr": LR, "oracle": {"type": oracle, "steps": 5}, "aux": {"lr": LR}}
    return {
        "type": "GradPower",
        "params": {"power": 1.0, "base": {"type": "Muon", "params": params}},
    }
