"""When all ranks save, and when they stop."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gradopt_ds.experiments.common.stopping import StopRequest
from gradopt_ds.experiments.pretrain import saving
from gradopt_ds.experiments.pretrain.saving import Saving
from gradopt_ds.experiments.pretrain.settings import RunSettings

STEPS = 10


@pytest.fixture
def steps_saved(
    make: Callable[..., RunSettings], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list[int], int]]:
    """Run ten steps, 20 seconds each; return those saved after, and the last one."""

    def run(elsewhere: tuple[int, int] | None = None, stop_at: int = 0, **settings: Any) -> Any:
        now, saved = [0.0], []
        monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
        state: Any = SimpleNamespace(step=0, settings=make(steps=STEPS, **settings))
        state.engine = SimpleNamespace(device=torch.device("cpu"))
        state.save = lambda: saved.append(state.step)

        def maximum(mine: torch.Tensor, _operation: object) -> None:
            if elsewhere is not None and state.step == elsewhere[0]:
                mine[elsewhere[1]] = 1

        monkeypatch.setattr(saving.dist, "all_reduce", maximum)
        stop = StopRequest()
        decides = Saving(state, stop)
        for state.step in range(1, STEPS + 1):
            now[0] += 20
            if state.step == stop_at:
                stop.reason = "SIGTERM"
            if decides.save_if_due():
                break
        return saved, state.step

    return run


@pytest.mark.parametrize(
    ("settings", "saved", "last"),
    [
        ({}, [], STEPS),
        ({"save_every": 4}, [4, 8, 10], STEPS),
        ({"save_minutes": 1.0}, [3, 6, 9, 10], STEPS),
        ({"save_every": 4, "save_minutes": 1.0}, [3, 4, 7, 8, 10], STEPS),
        ({"stop_at": 5}, [5], 5),
        ({"stop_at": STEPS}, [], STEPS),  # there is nothing left to go on with
        ({"elsewhere": (6, 0)}, [6], 6),  # another rank has been asked to stop
        ({"elsewhere": (6, 1), "save_minutes": 9.0}, [6, 10], STEPS),  # or has the later clock
    ],
)
def test_saved_by_steps_by_the_clock_and_before_a_stop(
    steps_saved: Callable[..., Any], settings: dict[str, Any], saved: list[int], last: int
) -> None:
    assert steps_saved(**settings) == (saved, last)
