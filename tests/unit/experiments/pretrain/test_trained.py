from types import SimpleNamespace
from typing import Any

from gradopt_ds.experiments.pretrain.trained import kept_from_checkpoint, live_params

OWN: dict[str, Any] = {"lr": 0.001, "initial_lr": 0.02, "momentum": 0.9, "lr_scale": 1.0}
AUX = {"lr": 0.001, "initial_lr": 0.02, "lr_scale": 0.1, "betas": (0.9, 0.95)}


def test_groups_beat_what_was_asked_for() -> None:
    asked = {"lr": 0.5, "momentum": 0.8, "oracle": "svd", "aux": {"lr": 0.5, "betas": [0.9, 0.99]}}
    own = {**OWN, "oracle": {"type": "svd", "dtype": None}}
    assert live_params(asked, own, AUX) == {
        "lr": 0.02,
        "momentum": 0.9,
        "oracle": "svd",  # which loading leaves as configured
        "aux": {"lr": 0.02 * 0.1, "betas": (0.9, 0.95)},
    }


def test_what_is_the_same_is_left_as_it_was_written() -> None:
    asked = {"lr": 0.02, "aux": {"lr": 0.002, "betas": [0.9, 0.95]}}
    assert live_params(asked, OWN, AUX) == asked


def test_the_base_of_a_power_is_looked_into() -> None:
    asked = {"power": 1.2, "base": {"type": "Muon", "params": {"lr": 0.5}}}
    assert live_params(asked, {**OWN, "power": 1.1}, None) == {
        "power": 1.1,
        "base": {"type": "Muon", "params": {"lr": 0.02}},
    }


def test_an_oracle_that_is_written_out_is_no_difference() -> None:
    spec = {"type": "svd", "dtype": None}
    groups = [{"rule": "matrix", "lr": 0.02, "momentum": 0.9, "oracle": spec}]
    for oracle in ("svd", {"type": "svd"}):
        params = {"lr": 0.02, "momentum": 0.8, "oracle": oracle}
        engine: Any = SimpleNamespace(
            basic_optimizer=SimpleNamespace(param_groups=groups),
            optimizer_params=lambda params=params: params,
        )
        (said,) = kept_from_checkpoint(engine)
        assert said.startswith("optimizer.params.momentum")
