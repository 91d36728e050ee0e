import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain.schedule import scheduler

STEPS, WARMUP, PEAK = 90, 9, 0.3
Name = Literal["cosine", "wsd", "constant"]


def learning_rates(name: Name, steps: int = STEPS, warmup: int = WARMUP) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = scheduler(name, steps, warmup)(optimizer)
    rates = []
    for _ in range(steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def cosine(step: int) -> float:
    if step < WARMUP:
        return step / WARMUP
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def wsd(step: int) -> float:
    if step < WARMUP:
        return 0.1 + 0.9 * step / WARMUP
    return 1.0 if step < 60 else 0.1 + 0.9 * (1 - (step - 60) / 30)


def constant(step: int) -> float:
    return min(1.0, step / WARMUP)


@pytest.mark.parametrize(
    ("name", "share"), [("cosine", cosine), ("wsd", wsd), ("constant", constant)]
)
def test_against_the_closed_form(name: Name, share: Callable[[int], float]) -> None:
    wanted = [PEAK * share(step) for step in range(STEPS + 1)]
    assert learning_rates(name) == pytest.approx(wanted)


def test_decaying_schedules_end_at_a_tenth() -> None:
    for name in ("cosine", "wsd"):
        assert learning_rates(name)[-1] == pytest.approx(PEAK / 10)


def test_groups_keep_their_ratio() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [weights[0]], "lr": 1.0}, {"params": [weights[1]], "lr": 0.05}]
    )
    schedule = scheduler("cosine", 20, 4)(optimizer)
    for _ in range(20):
        optimizer.step()
        schedule.step()
        first, second = schedule.get_last_lr()
        assert second == pytest.approx(0.05 * first)


def test_a_warm_up_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PretrainError, match="--warmup-steps 7 does not fit wsd over 9 steps"):
        scheduler("wsd", 9, 7)
