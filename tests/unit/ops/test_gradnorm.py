"""GradNorm: row statistics, and the rows that have none."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradopt_ds.ops import grad_norm
from tests.unit.ops.matrices import error, gaussian


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 8), n=st.integers(3, 40), exponent=st.integers(-30, 30))
def test_row_statistics(m: int, n: int, exponent: int) -> None:
    """Mean 0 and biased standard deviation 1 in every row, at every scale."""
    normed = grad_norm(gaussian(2, m, n, seed=n) * 10.0**exponent)
    assert normed.dtype == torch.float32
    assert normed.mean(-1).abs().max() < 1e-5
    assert torch.allclose(normed.square().mean(-1), torch.ones(2, m), atol=1e-4)


def test_against_the_formula() -> None:
    """In float64, where nothing under- or overflows."""
    g = gaussian(5, 33, dtype=torch.float64)
    mean = g.mean(1, keepdim=True)
    expected = (g - mean) / g.std(1, correction=0, keepdim=True)
    assert torch.allclose(grad_norm(g), expected, atol=1e-12)
    assert grad_norm(g).dtype == torch.float64
    assert error(grad_norm(g.float()), expected) < 1e-6
    assert error(grad_norm(g.bfloat16()), expected) < 1e-2


def test_rows_of_different_scales() -> None:
    """1e-30 beside 1e30: each row has its own."""
    g = gaussian(3, 50)
    scaled = g * torch.tensor([[1e-30], [1.0], [1e30]])
    assert error(grad_norm(scaled), grad_norm(g)) < 1e-5


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e-30, 1e30])
@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_constant_rows_become_zero(value: float, n: int) -> None:
    """Padding and dead units; also beside a row that lives."""
    g = torch.stack([torch.full((n,), value), gaussian(n)])
    assert torch.equal(grad_norm(g)[0], torch.zeros(n))
    assert grad_norm(g)[1].any() == (n > 1)


def test_rounding_is_not_amplified() -> None:
    """A row that is constant but for its last bits has no direction."""
    row = torch.full((64,), 0.1)
    row[::2] = torch.nextafter(row[::2], torch.tensor(1.0))
    assert torch.equal(grad_norm(row[None]), torch.zeros(1, 64))
    row[::2] += 1e-4
    assert torch.allclose(grad_norm(row[None]).abs(), torch.ones(1, 64), atol=1e-2)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_non_finite_rows_are_not_hidden(poison: float) -> None:
    """They become NaN, the others stay."""
    g = gaussian(3, 8)
    g[1, 4] = poison
    normed = grad_norm(g)
    assert normed[1].isnan().all()
    assert torch.equal(normed[::2], grad_norm(g[::2]))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 3, 4)])
def test_empty(shape: tuple[int, ...]) -> None:
    """No rows, or rows without entries."""
    assert grad_norm(torch.zeros(shape)).shape == shape
