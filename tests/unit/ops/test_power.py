"""GradPower's elementwise map."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradopt_ds.ops import sign_power
from tests.unit.ops.matrices import error, gaussian


@settings(max_examples=100, deadline=None)
@given(x=st.floats(-1e6, 1e6), power=st.sampled_from([0.5, 0.9, 1.0, 1.2, 2.0]))
def test_against_the_formula(x: float, power: float) -> None:
    """sign(x)|x|^p, and 0 at 0."""
    result = sign_power(torch.tensor([x], dtype=torch.float64), power).item()
    assert result == pytest.approx(math.copysign(abs(x) ** power, x), rel=1e-12)


def test_power_one_is_no_copy() -> None:
    """It costs nothing where it does nothing."""
    g = gaussian(3, 4)
    assert sign_power(g, 1.0) is g
    assert sign_power(g, 1) is g


@pytest.mark.parametrize("power", [0.9, 1.2])
def test_homogeneous_of_degree_p(power: float) -> None:
    """phi(cg) = c^p phi(g): not linear, so scaling and averaging must be done before."""
    g = gaussian(50)
    assert error(sign_power(3 * g, power), 3**power * sign_power(g, power)) < 1e-6


@pytest.mark.parametrize("power", [0.9, 1.2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_and_input_are_kept(power: float, dtype: torch.dtype) -> None:
    """A new tensor of the same dtype; the gradient is not written."""
    g = gaussian(50, dtype=dtype).requires_grad_()
    before = g.detach().clone()
    result = sign_power(g, power)
    assert result.dtype == dtype
    assert not result.requires_grad
    assert torch.equal(g, before)
    assert error(result, before.double().sign() * before.double().abs() ** power) < 1e-2


@pytest.mark.parametrize("power", [0.0, -1.0, math.nan])
def test_power_must_be_positive(power: float) -> None:
    """With p <= 0 a zero gradient would not stay zero."""
    with pytest.raises(ValueError, match="power must be > 0, got"):
        sign_power(gaussian(3), power)
