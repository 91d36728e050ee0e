from pathlib import Path
from typing import Any

import pytest

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.models import model_config, parameter_count
from gradopt_ds.experiments.pretrain import host_fit

CONFIGS = Path(__file__).parents[4] / "configs/models"
ADAM: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 1,
    "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
}


def test_training_takes_weights_gradients_and_two_moments() -> None:
    shape = model_config(CONFIGS / "60m.json")
    assert host_fit.host_bytes(shape, ADAM, 8, 1) > 4 * 4 * parameter_count(shape)


def test_of_what_the_estimate_does_not_know_the_weights_count() -> None:
    shape = model_config(CONFIGS / "60m.json")
    unknown = {**ADAM, "optimizer": {"type": "Lion"}}
    assert host_fit.host_bytes(shape, unknown, 8, 1) == 4 * parameter_count(shape)


def test_all_ranks_of_the_host_count(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = model_config(CONFIGS / "60m.json")
    needed = host_fit.host_bytes(shape, ADAM, 8, 2)
    monkeypatch.setattr(host_fit, "available_bytes", lambda: int(1.5 * needed))
    monkeypatch.setattr(host_fit.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(host_fit.dist, "barrier", lambda: None)
    monkeypatch.setenv("LOCAL_SIZE", "1")
    host_fit.refuse_what_cannot_fit(shape, ADAM, 8)
    monkeypatch.setenv("LOCAL_SIZE", "2")
    with pytest.raises(PretrainError, match=r"58M parameters needs .* for 2 rank\(s\)"):
        host_fit.refuse_what_cannot_fit(shape, ADAM, 8)
