"""Importing is idempotent, harmless to others, and refuses versions it does not know."""

import importlib.metadata
import subprocess
import sys

import pytest
from deepspeed.runtime.engine import DeepSpeedEngine

import gradopt_ds.integration as integration
from gradopt_ds.integration.versions import check_deepspeed_version


def test_installing_twice_changes_nothing() -> None:
    """Each method is extended once, whoever imports how often."""
    before = DeepSpeedEngine._configure_optimizer
    integration.install()
    assert DeepSpeedEngine._configure_optimizer is before
    assert not hasattr(before.__wrapped__, "__wrapped__")


@pytest.mark.parametrize("version", ["0.19.7", "0.20.0", "1.0"])
def test_unknown_versions_are_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """The message names the range and the version found."""
    monkeypatch.setattr("gradopt_ds.integration.versions.version", lambda name: version)
    with pytest.raises(ImportError, match=f"supports deepspeed .*found {version}"):
        check_deepspeed_version()


def test_the_installed_version_is_supported() -> None:
    """The release that the tests run on, and a local build of it."""
    assert importlib.metadata.version("deepspeed") in integration.SUPPORTED_DEEPSPEED
    assert "0.19.8+cu130" in integration.SUPPORTED_DEEPSPEED


def test_the_optimizers_do_without_deepspeed() -> None:
    """`import gradopt_ds` works where DeepSpeed is not installed."""
    program = """
import sys
sys.modules["deepspeed"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "deepspeed" else find(name, *a)
import torch, gradopt_ds
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 6))
optimizer = gradopt_ds.SWAN(gradopt_ds.matrix_param_groups(model), oracle="svd")
model(torch.randn(8, 4)).square().sum().backward()
optimizer.step()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
