"""The size of steps: what the settings promise, and a rate of AdamW's that does not fit."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradopt_ds import matrix_param_groups
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.registry import OPTIMIZERS
from gradopt_ds.integration.step_size import warn_of_adamw_rate
from gradopt_ds.optim import MatrixOptimizer
from tests.distributed.model import build_model

LIKE_ADAMW = [
    ("SWAN", {"alpha": 0.2, "oracle": "svd"}),
    ("SinkGD", {"alpha": 0.2}),
    ("PolarGrad", {"scale": "rms", "oracle": "svd"}),
    ("MatrixMuon", {"scale": "rms", "oracle": "svd"}),
]
SHAPES = [(24, 24), (96, 16), (16, 96), (7, 23), (200, 64)]


def update(name: str, params: dict[str, Any], shape: tuple[int, int], steps: int = 2) -> np.ndarray:
    """The last step of the weight of a linear layer, in float64."""
    rows, columns = shape
    layer = nn.Linear(columns, rows, bias=False, dtype=torch.float64)
    optimizer = build_optimizer(name, params, layer, list(layer.parameters()))
    generator = torch.Generator().manual_seed(rows)
    for _ in range(steps):
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return (layer.weight.detach() - before).numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "params"), LIKE_ADAMW, ids=lambda value: str(value)[:8])
def test_steps_have_the_size_of_adamw(
    name: str, params: dict[str, Any], shape: tuple[int, int]
) -> None:
    """0.2 times lr at every shape: what docs/coming_from_adamw.md promises."""
    step = update(name, {"lr": 3e-4, **params}, shape)
    assert np.sqrt(np.mean(step**2)) == pytest.approx(0.2 * 3e-4, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("SWAN", {"oracle": "svd"}),
        ("SinkGD", {}),
        *(("PolarGrad", {"scale": scale, "oracle": "svd"}) for scale in ("none", "spectral")),
    ],
)  # fmt: skip
def test_the_relative_step_is_that_of_the_update(
    name: str, params: dict[str, Any], shape: tuple[int, int]
) -> None:
    """What the warning counts with, against updates."""
    layer = nn.Linear(shape[1], shape[0], bias=False)
    optimizer = build_optimizer(name, params, layer, list(layer.parameters()))
    assert isinstance(optimizer, MatrixOptimizer)
    (group,) = optimizer.param_groups
    relative = optimizer.relative_step(*shape, group)
    step = update(name, {"lr": 0.25, **params}, shape)
    assert relative == pytest.approx(np.sqrt(np.mean(step**2)) / 0.25, rel=1e-3)


def test_a_step_that_gradients_decide_is_not_known() -> None:
    layer = nn.Linear(5, 3, bias=False)
    groups = matrix_param_groups(layer)
    for params in ({}, {"scale": "rms", "momentum_order": "polar_first"}):
        optimizer = build_optimizer("PolarGrad", params, layer, groups)
        assert isinstance(optimizer, MatrixOptimizer)
        assert optimizer.relative_step(3, 5, optimizer.param_groups[0]) is None


def warnings(name: str, params: dict[str, Any], caplog: pytest.LogCaptureFixture) -> list[str]:
    model = build_model()
    optimizer = build_optimizer(name, params, model, list(model.parameters()))
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the first step of a warm-up
    caplog.clear()
    with caplog.at_level(logging.WARNING, "gradopt_ds"):
        warn_of_adamw_rate(optimizer)
    return [record.getMessage() for record in caplog.records]


AUX = {"lr_scale": 1.0}


@pytest.mark.parametrize("name", ["SWAN", "SinkGD", "SWANPower"])
def test_trainers_default_rate_is_named(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """5e-5 with alpha 0.05: steps of 2.5e-6, 20 times smaller; in its default, AdamW's are 1e-5."""
    (warning,) = warnings(name, {"lr": 5e-5, "aux": AUX}, caplog)
    for part in ("lr 5e-05", "2.5e-06", "20 times smaller", '"alpha": 0.2', "1e-05", "docs/coming"):
        assert part in warning
    (matrices, auxiliary) = warnings(name, {"lr": 5e-5}, caplog)
    assert matrices == warning
    assert "learning rate 0.001, 20 times lr" in auxiliary and '"lr_scale": 1.0' in auxiliary


def test_a_wide_muon_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Its spectral steps shrink with the number of columns; those of `rms` do not."""
    model = nn.Sequential(nn.Linear(900, 30, bias=False), nn.Linear(625, 30, bias=False))
    for scale, expected in (("spectral", 1), ("rms", 0)):
        settings = {"lr": 1e-4, "scale": scale}
        optimizer = build_optimizer("MatrixMuon", settings, model, list(model.parameters()))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "gradopt_ds"):
            warn_of_adamw_rate(optimizer)
        assert len(caplog.records) == expected
        assert not expected or "25 times smaller" in caplog.records[0].getMessage()


def test_rates_that_fit_are_not_named(caplog: pytest.LogCaptureFixture) -> None:
    """No default, no setting that the page recommends, nothing whose steps are unknown."""
    for name, params in LIKE_ADAMW:
        assert not warnings(name, {"lr": 5e-5, "aux": AUX, **params}, caplog)
    for name in OPTIMIZERS:
        assert not warnings(name, {}, caplog)
    for name, params in (("PolarGrad", {"lr": 1e-6}), ("AdamPower", {"lr": 1e-6})):
        assert not warnings(name, params, caplog)


def test_only_rank_0_speaks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    assert not warnings("SWAN", {"lr": 5e-5}, caplog)
