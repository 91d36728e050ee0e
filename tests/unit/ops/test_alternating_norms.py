"""SinkGD's direction against plain loops, and what it promises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradopt_ds.ops import AlternatingNorms
from tests.reference import sinkgd_direction
from tests.unit.ops.matrices import SHAPES, gaussian


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_against_the_reference(shape: tuple[int, int], iterations: int) -> None:
    """Rows first, tall or wide."""
    g = gaussian(*shape, dtype=torch.float64)
    actual = AlternatingNorms(iterations=iterations)(g).numpy()
    np.testing.assert_allclose(actual, sinkgd_direction(g.numpy(), iterations), rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(m=st.integers(2, 12), n=st.integers(2, 12), exponent=st.floats(-30, 30))
def test_norms_and_scale(m: int, n: int, exponent: float) -> None:
    """Columns end at sqrt(m), whatever the scale; the Frobenius norm is sqrt(mn)."""
    x = AlternatingNorms()(gaussian(m, n, seed=m * n) * 10**exponent)
    torch.testing.assert_close(x.norm(dim=-2), torch.full((n,), m**0.5))
    assert x.norm() == pytest.approx((m * n) ** 0.5, rel=1e-5)


def test_rows_are_nearly_equal_after_five() -> None:
    """What alternating is for; one pass leaves them 10 % apart."""
    g = gaussian(32, 64) * torch.logspace(0, -6, 32)[:, None]
    spread = [AlternatingNorms(iterations=k)(g).norm(dim=-1).std().item() for k in (1, 5)]
    assert spread[1] < 1e-3 * spread[0]


def test_zeros_and_nan() -> None:
    """Dead rows and columns stay, and a NaN stays in its matrix."""
    g = gaussian(3, 6, 8)
    g[0, 2] = 0
    g[0, :, 5] = 0
    g[1, 0, 0] = torch.nan
    x = AlternatingNorms()(g)
    assert not x[0, 2].any() and not x[0, :, 5].any()
    assert x[1].isnan().all() and x[::2].isfinite().all()
    assert not AlternatingNorms()(torch.zeros(4, 3)).any()


def test_cost_and_settings() -> None:
    """The planner can ask for its price, and only counts are iterations."""
    assert AlternatingNorms().flops(8, 16) == AlternatingNorms().shard_flops(16, 8) == 6 * 5 * 128
    with pytest.raises(ValueError, match="iterations must be an integer >= 1, got 0"):
        AlternatingNorms(iterations=0)
