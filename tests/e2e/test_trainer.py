"""transformers' Trainer with the JSON of its documentation, and with objects that it drops."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from gradopt_ds.experiments.common.shared_memory import free_shared_memory
from tests.conftest import ROOT
from tests.distributed.launch import free_port


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of each run of ``trainer_worker.py``: one process, for the time of imports."""
    pytest.importorskip("accelerate")
    port = free_port()
    finished = subprocess.run(
        [sys.executable, "-m", "tests.e2e.trainer_worker", str(tmp_path_factory.mktemp("trainer"))],
        cwd=ROOT,
        env={**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    free_shared_memory(port)
    assert finished.returncode == 0, finished.stdout[-5000:]
    lines = [line for line in finished.stdout.splitlines() if line.startswith('{"run"')]
    return {run.pop("run"): run for run in map(json.loads, lines)}


FILLED = {"betas": [0.8, 0.97], "eps": 1e-6}


@pytest.mark.parametrize(
    ("name", "power"), [("SWAN", None), ("PolarGradPower", 1.2), ("GradPower", 1.2)]
)
def test_only_the_type_is_changed(runs: dict[str, Any], name: str, power: float | None) -> None:
    """The four values reach whom docs/optimizers.md says, and everything trains."""
    run = runs[name]
    assert run["optimizer"] == ("GradPower" if power else name) and run["moved"]
    matrices, auxiliary = run["groups"]
    assert matrices == pytest.approx(
        {"rule": "matrix", "lr": 3e-4, "weight_decay": 0.25, **({"power": power} if power else {})}
    )
    assert {key: auxiliary[key] for key in FILLED} == FILLED
    assert auxiliary["weight_decay"] == 0.0
    assert auxiliary["lr"] * auxiliary["lr_scale"] == pytest.approx(1e-3)


def test_adampower_takes_the_place_of_adamw(runs: dict[str, Any]) -> None:
    run = runs["AdamPower"]
    assert run["groups"] == [{"lr": 3e-4, "weight_decay": 0.25, "power": 1.2, **FILLED}]
    assert run["optimizer"] == "GradPower" and run["moved"]


@pytest.mark.parametrize("run", ["dropped for the JSON's", "dropped for Trainer's"])
def test_an_object_that_trainer_drops_is_refused(runs: dict[str, Any], run: str) -> None:
    """It would train with AdamW."""
    assert "a SWAN was made for these parameters" in runs[run]["error"]
    assert "with AdamW instead" in runs[run]["error"]


def test_trainer_makes_it_from_the_model(runs: dict[str, Any]) -> None:
    run = runs["made by Trainer"]
    assert run["optimizer"] == "SWAN" and run["moved"]
    assert {group["lr"] for group in run["groups"]} == {0.01}


def test_a_conversion_by_accelerate_is_refused(runs: dict[str, Any]) -> None:
    """With offload it makes a DeepSpeedCPUAdam of any optimizer object."""
    error = runs["converted"]["error"]
    assert "was made from the parameter groups of a SWAN" in error
    assert "zero_force_ds_cpu_optimizer" in error
