"""The same random numbers in every run, whichever tests run and in whatever order."""

import random

import numpy as np
import pytest
import torch
from hypothesis import register_random, settings


class TorchGenerator:
    """Torch's global generator, for hypothesis to seed before every example."""

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def getstate(self) -> torch.Tensor:
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


TORCH = TorchGenerator()
"""Held here, since hypothesis keeps no reference that would keep it alive."""
register_random(TORCH)
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed before the fixtures of any scope."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
