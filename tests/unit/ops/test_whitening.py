"""SWAN's direction."""

import math

import pytest
import torch
from torch import Tensor

from gradopt_ds.ops import make_oracle, swan_direction
from tests.compute_dtypes import both_compute_dtypes
from tests.unit.ops.matrices import SHAPES, error, gaussian, polar

pytestmark = both_compute_dtypes
ORACLES = ["svd", "eigh", "polar_express", "coupled_newton_schulz"]


def swan(g: Tensor) -> Tensor:
    """The three steps by the formula, in float64."""
    g = g.double()
    normed = (g - g.mean(1, keepdim=True)) / g.std(1, correction=0, keepdim=True)
    # Rows that sum to zero: at most n - 1 directions.
    white = polar(normed, rank=min(g.shape[0], g.shape[1] - 1))
    return white * (math.sqrt(g.numel()) / float(white.norm()))


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16), (7, 13), (1, 9)])
def test_against_the_formula(shape: tuple[int, int]) -> None:
    """Also where the centred rows leave a null direction (m >= n)."""
    g = gaussian(*shape)
    assert error(swan_direction(g, make_oracle("svd")), swan(g)) < 1e-5
    assert error(swan_direction(g, make_oracle("eigh")), swan(g)) < 1e-5


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] > 1])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norm(name: str, shape: tuple[int, int], scale: float) -> None:
    """sqrt(mn), whatever the oracle, the shape and the scale of the gradient."""
    delta = swan_direction(gaussian(3, *shape) * scale, make_oracle(name))
    expected = torch.full((3,), math.sqrt(shape[0] * shape[1]))
    assert torch.allclose(delta.norm(dim=(1, 2)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 1)])
def test_nothing_from_nothing(name: str, shape: tuple[int, int]) -> None:
    """A zero gradient and one of constant rows give zeros."""
    flat = torch.stack([torch.zeros(shape), torch.ones(shape)])
    assert torch.equal(swan_direction(flat, make_oracle(name)), torch.zeros(2, *shape))


@pytest.mark.parametrize("name", ORACLES)
def test_dead_rows_stay_dead(name: str) -> None:
    """A zero row of the gradient is a zero row of the step."""
    g = gaussian(6, 20)
    g[2] = 0
    assert swan_direction(g, make_oracle(name))[2].abs().max() < 1e-6


def test_nan_stays_in_its_matrix() -> None:
    """Through all three steps."""
    g = gaussian(3, 4, 6)
    g[1, 0, 0] = math.nan
    delta = swan_direction(g, make_oracle("svd"))
    assert delta[1].isnan().all()
    assert delta[::2].isfinite().all()


def test_dtype_and_empty() -> None:
    """float32, float64 for float64; nothing for nothing."""
    svd = make_oracle("svd")
    assert swan_direction(gaussian(4, 6, dtype=torch.bfloat16), svd).dtype == torch.float32
    assert swan_direction(gaussian(4, 6, dtype=torch.float64), svd).dtype == torch.float64
    assert swan_direction(torch.zeros(0, 4, 6), svd).shape == (0, 4, 6)
