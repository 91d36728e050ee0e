"""Tests draw the same numbers and compute in the same dtype on every machine, in any order."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradopt_ds.ops import default_compute_dtype
from tests.compute_dtypes import both_compute_dtypes

CPU = torch.device("cpu")


@pytest.mark.parametrize("time", ["first", "second"])
def test_every_test_starts_from_the_same_seeds(time: str) -> None:
    seeded = torch.Generator().manual_seed(0)
    assert torch.equal(torch.randn(5), torch.randn(5, generator=seeded))
    assert np.random.random() == np.random.RandomState(0).random()
    assert random.random() == random.Random(0).random()


@settings(max_examples=5)
@given(st.integers(0, 99))
def test_every_example_too(_: int) -> None:
    seeded = torch.Generator().manual_seed(0)
    assert torch.equal(torch.randn(5), torch.randn(5, generator=seeded))


def test_examples_are_the_same_in_every_run() -> None:
    assert settings(max_examples=5).derandomize


def test_the_processor_is_not_asked() -> None:
    assert default_compute_dtype(CPU) == torch.float32


@both_compute_dtypes
def test_either_dtype_on_every_processor(compute_dtype: torch.dtype) -> None:
    assert default_compute_dtype(CPU) == compute_dtype
