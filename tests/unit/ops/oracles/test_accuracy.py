"""How far each oracle is from the polar factor: float64 SVD, and scalar iterations."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds.ops import Oracle, make_oracle
from tests.unit.ops.matrices import (
    SHAPES,
    error,
    gaussian,
    ill_conditioned,
    polar,
    singular_values,
    with_singular_values,
)


def oracle(name: str, **options: object) -> Oracle:
    """An iteration in float32, so that errors do not depend on the machine."""
    return make_oracle({"type": name, "dtype": "float32", **options})


def muon_quintic(u: Tensor) -> Tensor:
    """Jordan's polynomial, on singular values."""
    return 3.4445 * u - 4.7750 * u**3 + 2.0315 * u**5


@pytest.mark.parametrize("name", ["svd", "eigh"])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_oracles(name: str, shape: tuple[int, int]) -> None:
    """Right to the last digit of float32."""
    g = gaussian(*shape)
    assert error(make_oracle(name)(g), polar(g)) < 1e-6


@pytest.mark.parametrize("name", ["svd", "eigh"])
def test_exact_oracles_on_ill_conditioned_input(name: str) -> None:
    """Singular values that float32 can just tell from zero count fully."""
    g = ill_conditioned(64, 96, condition=1e4).float()
    assert error(make_oracle(name)(g), polar(g)) < 1e-5


@pytest.mark.parametrize(("name", "smallest"), [("svd", 1e-12), ("eigh", 3e-7)])
def test_exact_oracles_resolve_float64(name: str, smallest: float) -> None:
    """In float64 input, smaller singular values are information; eigh sees half the digits."""
    g = with_singular_values(torch.tensor([1.0, smallest], dtype=torch.float64), 4)
    assert error(make_oracle(name)(g), polar(g)) < 5e-3
    assert error(make_oracle(name)(g.float()), polar(g, rank=1)) < 1e-5


def test_eigh_drops_what_its_gram_matrix_cannot_resolve() -> None:
    """Below, directions would be noise: zero instead, and an isometry on the others."""
    g = with_singular_values(torch.tensor([1.0, 1e-10], dtype=torch.float64), 4)
    assert error(make_oracle("eigh")(g), polar(g, rank=1)) < 1e-8


@pytest.mark.parametrize("name", ["newton_schulz", "gram_newton_schulz"])
@pytest.mark.parametrize("shape", [(32, 128), (128, 32), (48, 96)])
def test_quintic_band(name: str, shape: tuple[int, int]) -> None:
    """Singular values of well-conditioned input end in the band of the quintic's cycle."""
    values = singular_values(oracle(name)(gaussian(*shape)))
    assert values.min() > 0.67
    assert values.max() < 1.21
    assert values.max() - values.min() > 0.1  # not the polar factor, and not to be mistaken for it


@pytest.mark.parametrize(
    ("steps", "band", "tolerance"), [(5, (0.86, 1.13), 0.1), (8, (0.9999, 1.0001), 1e-5)]
)
def test_polar_express_well_conditioned(
    steps: int, band: tuple[float, float], tolerance: float
) -> None:
    """4:1 Gaussian: 5 steps within 13 %, 8 steps converged."""
    g = gaussian(128, 32)
    u = oracle("polar_express", steps=steps)(g)
    values = singular_values(u)
    assert band[0] < values.min()
    assert values.max() < band[1]
    assert error(u, polar(g)) < tolerance


@pytest.mark.parametrize(("steps", "tolerance"), [(5, 0.25), (8, 3e-3), (12, 2e-5)])
def test_polar_express_ill_conditioned(steps: int, tolerance: float) -> None:
    """Condition 1000: more steps, until float32 is exhausted."""
    g = ill_conditioned(128, 128, condition=1e3).float()
    assert error(oracle("polar_express", steps=steps)(g), polar(g)) < tolerance


def test_polar_express_never_exceeds_its_bound() -> None:
    """The safety factor: in bfloat16 no number of steps sends singular values away."""
    g = ill_conditioned(64, 128, condition=1e5)
    for steps in range(1, 15):
        spec = {"type": "polar_express", "steps": steps, "dtype": "bfloat16"}
        assert singular_values(make_oracle(spec)(g)).max() < (2.0 if steps < 5 else 1.14)


@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (7, 8), (16, 16)])
@pytest.mark.parametrize("restarts", [(), (2,), (1, 3), (2, 9)])
def test_gram_form_is_the_plain_form(shape: tuple[int, int], restarts: tuple[int, ...]) -> None:
    """The same polynomial, wherever it restarts."""
    g = gaussian(*shape, dtype=torch.float64)
    gram = make_oracle({"type": "gram_newton_schulz", "restarts": list(restarts)})(g)
    assert error(gram, make_oracle("newton_schulz")(g)) < 1e-9


def test_gram_form_needs_its_restart_in_half_precision() -> None:
    """Why there are restarts: without one the Gram matrix drifts off."""
    g = ill_conditioned(128, 512, condition=1e3).float()
    half = {"type": "gram_newton_schulz", "dtype": "float16"}
    truth = make_oracle("newton_schulz")(g.double())
    drifted = error(make_oracle({**half, "restarts": []})(g), truth)
    assert error(make_oracle(half)(g), truth) < min(0.05, drifted / 2)


def test_coupled_at_one_half_converges() -> None:
    """In 20 steps on 4:1 input."""
    g = gaussian(128, 32)
    assert error(oracle("coupled_newton_schulz", beta=0.5, steps=20)(g), polar(g)) < 1e-5


@pytest.mark.parametrize("steps", [10, 11, 12, 13])
@pytest.mark.parametrize("shape", [(128, 32), (48, 48)])
def test_coupled_at_swan_s_beta_stays_in_its_band(steps: int, shape: tuple[int, int]) -> None:
    """[0.563, 1.6]: 2 beta, and where 2 beta is sent next."""
    values = singular_values(oracle("coupled_newton_schulz", steps=steps)(gaussian(*shape)))
    assert values.min() > 0.55
    assert values.max() < 1.61


@settings(max_examples=25, deadline=None)
@given(
    sigma=st.lists(st.floats(0.05, 1), min_size=1, max_size=6),
    beta=st.floats(0.35, 0.85),
    steps=st.integers(1, 6),
)
def test_coupled_maps_singular_values(sigma: list[float], beta: float, steps: int) -> None:
    """By u <- beta u (3 - u^2), along the singular vectors of the input."""
    u = torch.tensor(sigma, dtype=torch.float64)
    u = u / u.norm()
    coupled = make_oracle({"type": "coupled_newton_schulz", "beta": beta, "steps": steps})
    result = coupled(with_singular_values(u, 8))
    for _ in range(steps):
        u = beta * u * (3 - u**2)
    assert error(result, with_singular_values(u, 8)) < 1e-8


@settings(max_examples=25, deadline=None)
@given(sigma=st.lists(st.floats(0.01, 1), min_size=1, max_size=6), steps=st.integers(1, 6))
def test_newton_schulz_maps_singular_values(sigma: list[float], steps: int) -> None:
    """Every step is the quintic, applied to the singular values."""
    check_scalar_map("newton_schulz", sigma, [muon_quintic] * steps, start=1.0)


@pytest.mark.parametrize("steps", [1, 2])
def test_polar_express_maps_singular_values(steps: int) -> None:
    """Algorithm 1 by hand: both the start and each step are stretched by 1.01."""

    def first(u: Tensor) -> Tensor:
        u = u / 1.01
        return 8.28721201814563 * u - 23.595886519098837 * u**3 + 17.300387312530933 * u**5

    def second(u: Tensor) -> Tensor:
        u = u / 1.01
        return 4.107059111542203 * u - 2.9478499167379106 * u**3 + 0.5448431082926601 * u**5

    check_scalar_map("polar_express", [1.0, 0.3, 0.01], [first, second][:steps], start=1 / 1.01)


def test_polar_express_goes_on_with_its_limit() -> None:
    """After the seventh step the quintic stays 15/8, -10/8, 3/8, unstretched."""
    g = ill_conditioned(4, 6, condition=1e4)

    def values(steps: int) -> Tensor:
        return singular_values(make_oracle({"type": "polar_express", "steps": steps})(g))

    for steps in (7, 8, 9):
        u = values(steps)
        expected = 1.875 * u - 1.25 * u**3 + 0.375 * u**5
        assert torch.allclose(values(steps + 1), expected, atol=1e-12)


def check_scalar_map(
    name: str, sigma: list[float], maps: Sequence[Callable[[Tensor], Tensor]], start: float
) -> None:
    """The oracle acts on singular values by ``maps`` and leaves the singular vectors alone."""
    u = torch.tensor(sigma, dtype=torch.float64)
    u = u / u.norm()
    result = make_oracle({"type": name, "steps": len(maps)})(with_singular_values(u, 8))
    u = start * u
    for step in maps:
        u = step(u)
    assert error(result, with_singular_values(u, 8)) < 1e-8 * math.sqrt(len(sigma))
