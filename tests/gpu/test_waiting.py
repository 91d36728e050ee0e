"""The optimizer's step inside an engine queues its work and returns."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from gradopt_ds.integration.registry import OPTIMIZERS
from tests.distributed.engines import BF16, config, start, train
from tests.distributed.harness import distributed
from tests.gpu.places import NCCL
from tests.gpu.waiting import waiting_refused

PURE = {
    "bf16": {
        "enabled": True,
        "bf16_master_weights_and_grads": True,
        "bf16_optimizer_states": True,
    }
}


@dataclass(frozen=True)
class Default:
    """An optimizer with every default."""

    optimizer: str
    stage: int
    precision: str = "bf16"

    @property
    def name(self) -> str:
        return f"{self.optimizer} stage{self.stage} {self.precision}"

    @property
    def settings(self) -> dict[str, Any]:
        pure = self.precision == "pure bf16"
        ours = OPTIMIZERS[self.optimizer].optimizer.__name__ != "AdamW"
        params = {"stochastic_rounding": True} if pure and ours else {}
        return config(self.optimizer, params, stage=self.stage, **(PURE if pure else BF16))


CASES = [
    *(Default(name, stage) for name in OPTIMIZERS for stage in (0, 1, 2, 3)),
    *(Default(name, stage, "pure bf16") for name in ("SWAN", "PolarGrad") for stage in (2, 3)),
]


def check(case: Default) -> None:
    """Three steps: what is made in the first is there in the others."""
    engine = start(case.settings)
    optimizer = engine.basic_optimizer
    step, calls = optimizer.step, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        with waiting_refused(engine.device):
            calls.append(1)
            return step(*args, **kwargs)

    optimizer.step = watched
    train(engine, range(3))
    assert len(calls) >= 3
    engine.destroy()


@pytest.mark.gpu
@distributed(1, cases=CASES, place=NCCL)
def test_no_step_waits(case: Default) -> None:
    check(case)


@distributed(1, cases=[case for case in CASES if case.stage in (2, 3)])
def test_rehearsal_on_the_cpu(case: Default) -> None:
    check(case)


def test_a_read_value_is_refused() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.ones(3, device=device)
    for read in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: x[x > 0], x.nonzero):
        with pytest.raises(RuntimeError), waiting_refused(device):
            read()
