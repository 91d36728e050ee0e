"""The operations of a model, beside torch's own counter; and what a stopwatch adds up."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.pretrain.throughput import Stopwatch, step_flops
from tests.conftest import ROOT


def dense(tied: bool) -> Any:
    config = models.model_config(ROOT / "configs/models/tiny.json", 128, attention="eager")
    config.tie_word_embeddings = tied
    return models.build(config, seed=0)


@pytest.mark.parametrize("tied", [False, True])
def test_operations_are_those_torch_counts(tied: bool) -> None:
    """But the first layer's rotations, and what the backward pass leaves out: less than 1 %."""
    model = dense(tied)
    ids = torch.arange(128).view(2, 64)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    assert ids.numel() * step_flops(model, 64) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_data_and_optimizer_are_timed_per_step() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: time.sleep(0))
    model = dense(tied=False)
    engine: Any = SimpleNamespace(
        module=model,
        basic_optimizer=optimizer,
        device=torch.device("cpu"),
        train_batch_size=lambda: 4,
    )
    watch = Stopwatch(engine, 64)
    optimizer.register_step_pre_hook(lambda *_: time.sleep(0.05))
    for _ in range(2):
        with watch.waiting_for_data():
            time.sleep(0.03)
        optimizer.step()
    row = watch.row(2.0, ranks=1)
    assert row["data_wait_seconds"] == pytest.approx(0.06, abs=0.05)
    assert row["optimizer_seconds"] == pytest.approx(0.10, abs=0.05)
    assert row["tokens_per_second"] == 4 * 64 / 2.0
    assert row["model_flops_per_second"] == 4 * 64 * step_flops(model, 64) / 2.0
    assert row["mfu"] is None
    assert row["memory_bytes"] > 0
    again = watch.row(2.0, ranks=1)
    assert again["data_wait_seconds"] == again["optimizer_seconds"] == 0.0
