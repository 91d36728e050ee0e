from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gradopt_ds.experiments.common.errors import DivergedError
from gradopt_ds.experiments.pretrain import loop
from gradopt_ds.experiments.pretrain.settings import RunSettings


class Engine:
    """DeepSpeed's calls in the order they come, with losses told beforehand."""

    device = torch.device("cpu")
    module = SimpleNamespace(config=SimpleNamespace())
    basic_optimizer = SimpleNamespace(
        param_groups=[{"lr": 0.25, "rule": "matrix"}, {"lr": 0.5, "rule": "aux", "lr_scale": 0.1}]
    )

    def __init__(self, losses: list[float]) -> None:
        self.losses = iter(losses)
        self.calls: list[str] = []

    def __call__(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
        assert input_ids.shape == (2, 8)
        assert torch.equal(input_ids, labels)
        self.calls.append("forward")
        return SimpleNamespace(loss=torch.tensor(next(self.losses)))

    def backward(self, loss: torch.Tensor) -> None:
        self.calls.append("backward")

    def step(self) -> None:
        self.calls.append("step")

    def gradient_accumulation_steps(self) -> int:
        return 3

    def train_micro_batch_size_per_gpu(self) -> int:
        return 2

    def train_batch_size(self) -> int:
        return 6

    def get_lr(self) -> list[float]:
        return [0.25, 0.5]

    def get_global_grad_norm(self) -> float:
        return 1.5


class Watch:
    """In the stopwatch's place."""

    def waiting_for_data(self) -> AbstractContextManager[None]:
        return nullcontext()

    def row(self, seconds: float, ranks: int) -> dict[str, float]:
        return {}


@pytest.fixture
def run(make: Callable[..., RunSettings], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(loop.dist, "all_reduce", lambda tensor: tensor)
    monkeypatch.setattr(loop.dist, "get_world_size", lambda: 1)

    def sequences() -> Iterator[Any]:
        while True:
            yield np.zeros(8, dtype=np.int32)

    def build(losses: list[float]) -> Any:
        settings = make(sequence_length=8)
        return SimpleNamespace(
            engine=Engine(losses),
            training=sequences(),
            settings=settings,
            step=4,
            tokens=100,
            elapsed=1.0,
        )

    return build


def test_a_step_runs_every_micro_batch_and_averages(run: Any) -> None:
    state = run([1.0, 2.0, 6.0])
    row = loop.train_step(state, Watch())
    assert state.engine.calls == ["forward", "backward", "step"] * 3
    assert row["loss"] == pytest.approx(3.0)
    assert (row["step"], row["tokens"], row["lr"], row["grad_norm"]) == (5, 100 + 6 * 8, 0.25, 1.5)
    assert row["perplexity"] == pytest.approx(20.0855369)  # e to the third
    assert row["learning_rates"] == {"matrix_0": 0.25, "aux_1": pytest.approx(0.05)}
    assert row["elapsed_seconds"] == state.elapsed == pytest.approx(1.0 + row["step_seconds"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_names_the_step(run: Any, bad: float) -> None:
    with pytest.raises(DivergedError, match=r"at step 5 \(learning rate 0\.25\): lower"):
        loop.train_step(run([1.0, bad, 1.0]), Watch())
