"""QDWH, ZOLO-PD and the adaptive oracle against float64 SVDs."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds.ops import make_oracle
from gradopt_ds.ops.oracles.adaptive import cholesky_bound, triangular_bound
from gradopt_ds.ops.oracles.qdwh import cholesky_step, halley_weights, qr_step
from gradopt_ds.ops.oracles.zolo_pd import zolotarev
from tests.unit.ops.matrices import (
    SHAPES,
    error,
    gaussian,
    ill_conditioned,
    polar,
    singular_values,
    with_singular_values,
)


def rank_deficient(m: int, n: int, rank: int) -> Tensor:
    """A float64 product of two Gaussian factors."""
    factors = [
        gaussian(*s, seed=i, dtype=torch.float64) for i, s in enumerate([(m, rank), (rank, n)])
    ]
    return factors[0] @ factors[1]


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3, 1e6])
@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32), (96, 97)])
def test_adaptive_at_every_condition(shape: tuple[int, int], condition: float) -> None:
    """1e-4 is promised for float32 input; the truth is that of the rounded input."""
    g = ill_conditioned(min(shape), max(shape), condition).float()
    g = g if shape[0] <= shape[1] else g.mT
    assert error(make_oracle("adaptive")(g), polar(g)) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adaptive_on_gaussians(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Of every shape."""
    g = gaussian(*shape, dtype=dtype)
    assert error(make_oracle("adaptive")(g), polar(g)) < (1e-5 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("rank", [1, 8, 47])
@pytest.mark.parametrize("shape", [(48, 48), (48, 160), (160, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adaptive_on_null_directions(shape: tuple[int, int], rank: int, dtype: torch.dtype) -> None:
    """They come out as zero, at any rank."""
    g = rank_deficient(*shape, rank).to(dtype)
    assert error(make_oracle("adaptive")(g), polar(g, rank=rank)) < 1e-4


@pytest.mark.parametrize("condition", [1e8, 1e11])
def test_adaptive_takes_qr_beyond_the_gram_matrix(condition: float) -> None:
    """float64 input whose squares float64 does not resolve."""
    g = ill_conditioned(48, 64, condition)
    assert error(make_oracle("adaptive")(g), polar(g)) < 1e-4


def test_adaptive_matrices_do_not_see_each_other() -> None:
    """Each takes its own number of steps, whatever its neighbours need, to the last bit."""
    zero = torch.zeros(32, 48)
    batch = [gaussian(32, 48), ill_conditioned(32, 48, 1e6).float(), zero]
    batch.append(rank_deficient(32, 48, 5).float())
    together = make_oracle("adaptive")(torch.stack(batch))
    for i, g in enumerate(batch):
        assert torch.equal(together[i], make_oracle("adaptive")(g[None])[0])


@settings(max_examples=40, deadline=None)
@given(
    logs=st.lists(st.floats(-6.2, 0), min_size=1, max_size=8),
    columns=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_the_bounds_are_never_too_high(logs: list[float], columns: int, seed: int) -> None:
    """And at most sqrt(m) too low, but for rounding."""
    sigma = 10 ** torch.tensor(logs, dtype=torch.float64)
    x = with_singular_values(sigma, len(logs) + columns, seed)
    bounds = [cholesky_bound(x @ x.mT), triangular_bound(torch.linalg.qr(x.mT)[1])]
    for bound in bounds:
        assert bound <= sigma.min() * 1.01
        assert bound >= sigma.min() * 0.99 / len(logs) ** 0.5


def test_no_bound_where_there_is_none() -> None:
    """Singular matrices: zero, not NaN and no exception."""
    singular = torch.ones(3, 3, dtype=torch.float64)
    assert not cholesky_bound(torch.zeros(2, 3, 3, dtype=torch.float64)).any()
    assert triangular_bound(torch.zeros(3, 3, dtype=torch.float64)) == 0
    assert cholesky_bound(-singular) == 0


@pytest.mark.parametrize(
    ("dtype", "steps", "condition", "tolerance"),
    [
        ("float32", None, 10, 2e-6),
        ("float32", None, 1e3, 1e-4),
        ("float64", None, 1e3, 1e-12),
        ("float64", None, 1e12, 1e-3),
        ("float64", 5, 1e3, 1e-3),
    ],
)
@pytest.mark.parametrize("shape", [(64, 64), (48, 192)])
def test_qdwh(
    shape: tuple[int, int], dtype: str, steps: int | None, condition: float, tolerance: float
) -> None:
    """Backward stable: the error is the dtype's rounding times the condition number."""
    g = ill_conditioned(*shape, condition).to(getattr(torch, dtype))
    assert error(make_oracle({"type": "qdwh", "steps": steps})(g), polar(g)) < tolerance


def test_qdwh_two_steps_from_a_good_bound() -> None:
    """With the right l0, two steps do what five do without."""
    g = with_singular_values(torch.tensor([1.0, 0.9, 0.5, 0.4]), 6)
    informed = make_oracle({"type": "qdwh", "steps": 2, "lower_bound": 0.2})
    assert error(informed(g), polar(g)) < 1e-4
    assert error(make_oracle({"type": "qdwh", "steps": 2})(g), polar(g)) > 0.05


@settings(max_examples=30, deadline=None)
@given(u=st.floats(1e-6, 1), low=st.floats(1e-6, 0.99), seed=st.integers(0, 99))
def test_both_forms_of_a_halley_step(u: float, low: float, seed: int) -> None:
    """u (a + b u^2) / (1 + c u^2), whichever decomposition computes it."""
    a, b, c = halley_weights(low)
    x = with_singular_values(torch.tensor([1.0, u], dtype=torch.float64), 3, seed)
    expected = [s * (a + b * s**2) / (1 + c * s**2) for s in (1.0, u)]
    truth = with_singular_values(torch.tensor(expected, dtype=torch.float64), 3, seed)
    assert error(qr_step(x, a, b, c), truth) < 1e-7
    if c <= 100:
        assert error(cholesky_step(x, a, b, c), truth) < 1e-12


@pytest.mark.parametrize("low", [1e-12, 1e-6, 1e-2, 0.5])
def test_halley_weights_are_optimal(low: float) -> None:
    """The step's minimum on [low, 1] is at low, and nothing exceeds 1."""
    a, b, c = halley_weights(low)
    u = np.geomspace(low, 1, 20_000)
    f = u * (a + b * u**2) / (1 + c * u**2)
    assert f.max() <= 1 + 1e-9
    assert f.min() == pytest.approx(f[0], rel=1e-9)
    interior = f[1:-1]
    valleys = interior[(interior < f[:-2]) & (interior < f[2:])]
    assert valleys == pytest.approx(f[0], rel=1e-5)


@pytest.mark.parametrize("condition", [10, 1e3, 1e6, 1e10])
@pytest.mark.parametrize("shape", [(32, 32), (64, 24)])
def test_zolo_pd_in_two_steps(shape: tuple[int, int], condition: float) -> None:
    """Full rank, any condition number that float64 carries."""
    g = ill_conditioned(min(shape), max(shape), condition)
    g = g if shape[0] <= shape[1] else g.mT
    tolerance = max(1e-13, 1e-15 * condition)
    assert error(make_oracle("zolo_pd")(g), polar(g)) < tolerance


@pytest.mark.parametrize(("degree", "low"), [(1, 0.1), (2, 1e-2), (4, 1e-4), (8, 1e-10)])
def test_zolotarev_functions_equioscillate(degree: int, low: float) -> None:
    """The mark of the best approximation: 2r + 2 extrema of one size on [low, 1]."""
    function = zolotarev(low, degree)
    u = np.geomspace(low, 1, 200_001)
    terms = sum(a * u / (u**2 + c) for a, c in zip(function.residues, function.poles, strict=True))
    f = function.scale * (u + terms)
    turning = np.flatnonzero(np.diff(np.sign(np.diff(f)))) + 1
    extrema = f[[0, *turning, -1]]
    assert len(extrema) == 2 * degree + 2
    assert extrema[::2] == pytest.approx(function.lowest, abs=1e-6)
    assert extrema[1::2] == pytest.approx(extrema[-1], abs=1e-6)


def test_one_halley_step_is_the_zolotarev_function_of_degree_one() -> None:
    """QDWH's weights and ZOLO-PD's elliptic functions, derived apart, agree."""
    low = 0.01
    a, b, c = halley_weights(low)
    function = zolotarev(low, 1)
    for u in (0.01, 0.1, 0.7):
        halley = u * (a + b * u**2) / (1 + c * u**2)
        actual = function.scale * (u + function.residues[0] * u / (u**2 + function.poles[0]))
        assert actual == pytest.approx(halley, rel=1e-9)


def test_zolo_pd_leaves_mpmath_alone() -> None:
    """Its precision is the caller's."""
    before = mpmath.mp.dps
    zolotarev(0.123, 3)
    assert mpmath.mp.dps == before


def test_nsds_by_hand() -> None:
    """Two steps of the recursion, entry by entry."""
    g = gaussian(4, 9, dtype=torch.float64)
    x = (g / g.norm()).numpy()
    y, z = x @ x.T, np.eye(4)
    for _ in range(2):
        dy, dz = np.diag(y), np.diag(z)
        new_y, new_z = np.zeros((4, 4)), np.zeros((4, 4))
        for i in range(4):
            for j in range(4):
                new_y[i, j] = 0.4 * y[i, j] * (3 - dz[j] * dy[j])
                new_z[i, j] = 0.4 * (3 * (i == j) - dz[i] * y[i, j]) * dz[j]
        y, z = new_y, new_z
    assert error(make_oracle("nsds")(g), torch.from_numpy(z @ x)) < 1e-12


@pytest.mark.parametrize("steps", [1, 3, 25])
def test_the_cubic_is_the_uncoupled_form(steps: int) -> None:
    """u <- u (3 - u^2) / 2: the classical iteration, which SWAN's coupled form equals."""
    g = gaussian(24, 60, dtype=torch.float64)
    spec = {"type": "newton_schulz", "coefficients": [1.5, -0.5, 0.0], "steps": steps}
    cubic = make_oracle(spec)
    coupled = make_oracle({"type": "coupled_newton_schulz", "beta": 0.5, "steps": steps})
    assert error(cubic(g), coupled(g)) < 1e-8
    assert cubic.flops(24, 60) == steps * 4 * 24 * 24 * 60
    if steps == 25:
        assert error(cubic(g), polar(g)) < 1e-10


@pytest.mark.parametrize("steps", [3, 5, 8])
@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (16, 16)])
def test_gram_polar_express_is_the_plain_form(shape: tuple[int, int], steps: int) -> None:
    """The same polynomials, at the same safety factor."""
    g = gaussian(*shape, dtype=torch.float64)
    gram = make_oracle({"type": "gram_polar_express", "steps": steps})
    plain = make_oracle({"type": "polar_express", "steps": steps, "safety": 1.05})
    assert error(gram(g), plain(g)) < 1e-8


def test_gram_polar_express_in_half_precision() -> None:
    """Its restarts and its safety factor, on a spectrum that needs both."""
    g = ill_conditioned(128, 512, condition=1e3).float()
    half = {"type": "gram_polar_express", "dtype": "float16"}
    truth = make_oracle({"type": "polar_express", "safety": 1.05})(g.double())
    assert error(make_oracle(half)(g), truth) < 0.05
    assert singular_values(make_oracle({**half, "steps": 8})(g)).max() < 1.05
    drifted = error(make_oracle({**half, "restarts": []})(g), truth)
    assert not drifted < 0.1


def test_safety_stretches_the_polynomials() -> None:
    """A larger factor is slower: it expects singular values above 1."""
    g = ill_conditioned(16, 32, condition=1e2)
    careless, careful = (
        make_oracle({"type": "polar_express", "safety": safety})(g) for safety in (1.0, 1.5)
    )
    assert error(careless, polar(g)) < error(careful, polar(g))
