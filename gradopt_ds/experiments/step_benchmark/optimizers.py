"""The optimizers that are set side by side, as DeepSpeed configs."""

from dataclasses import dataclass
from typing import Any

from gradopt_ds.integration.registry import OPTIMIZERS
from gradopt_ds.optim import MatrixOptimizer

BASELINE = "AdamW"
DEEPSPEED_MUON = "DeepSpeedMuon"
MUON = "MatrixMuon"
OURS = tuple(OPTIMIZERS)
FUSED_ADAM = "FusedAdam"
NAMES = (BASELINE, FUSED_ADAM, DEEPSPEED_MUON, *OURS)

LR = 1e-20
"""So small that no weight moves: every step of every optimizer sees the same gradients."""

ADAM = {"torch_adam": True, "adam_w_mode": True}
"""torch's AdamW for all parameters; DeepSpeed's Muon with its own loop for those of others."""

MUON_ORACLES = ("newton_schulz", "gram_newton_schulz")
"""Muon's five quintic steps, plain and on the Gram matrix; DeepSpeed's ``ns_method`` has both."""


@dataclass(frozen=True)
class Candidate:
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
        """Make the complete DeepSpeed config, one sequence per rank and step."""
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "steps_per_print": 2**31,
            "bf16": {"enabled": precision == "bf16"},
            "zero_optimization": {"stage": stage, "reduce_scatter": self.reduce_scatter},
            "optimizer": self.optimizer,
        }


def candidates(name: str, stage: int, oracle: str | None) -> list[Candidate]:
    """List the settings of an optimizer that are tried; the fastest of them is measured.

    Args:
        name: one of :data:`NAMES`.
        stage: the ZeRO stage.
        oracle: of this library's Muon; ``None`` for every one of :data:`MUON_ORACLES`.
    """
    if name == BASELINE:
        return [Candidate(name, {"type": "AdamW", "params": {"lr": LR, "fused": True, **ADAM}})]
    if name == FUSED_ADAM:
        # DeepSpeed compiles its kernel when it is first used.
        return [Candidate(name, {"type": "AdamW", "params": {"lr": LR}})]
    if name == DEEPSPEED_MUON:
        # Stage 3 refuses its Muon with `reduce_scatter`, which is DeepSpeed's default.
        return [
            Candidate(
                name, _deepspeed_muon(method), f"ns_method={method}", reduce_scatter=stage < 3
            )
            for method in ("gram", "standard")
        ]
    if name == MUON:
        oracles = MUON_ORACLES if oracle is None else (oracle,)
        return [Candidate(name, _muon(oracle), f"oracle={oracle}") for oracle in oracles]
    aux = {"aux": {"lr": LR}} if issubclass(OPTIMIZERS[name].optimizer, MatrixOptimizer) else {}
    return [Candidate(name, {"type": name, "params": {"lr": LR, **aux}})]


def _deepspeed_muon(method: str) -> dict[str, Any]:
    params = {"lr": LR, "momentum": 0.95, "ns_method": method, **ADAM}
    return {"type": "Muon", "params": params}


def _muon(oracle: str) -> dict[str, Any]:
    params = {"lr": LR, "oracle": {"type": oracle, "steps": 5}, "aux": {"lr": LR}}
    return {"type": MUON, "params": params}
