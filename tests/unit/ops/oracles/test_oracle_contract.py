"""What every oracle promises, whatever it computes: shapes, scales, nulls, NaN, symmetries."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from gradopt_ds.ops import ORACLES, Oracle, make_oracle
from gradopt_ds.ops.oracles.precision import DTYPES
from tests.unit.ops.matrices import (
    SHAPES,
    error,
    gaussian,
    ill_conditioned,
    orthogonal,
    polar,
    with_singular_values,
)

EXACT = ["svd", "eigh", "adaptive"]
FULL_RANK = ["qdwh", "zolo_pd"]
ITERATIONS = [name for name in ORACLES if name not in EXACT + FULL_RANK]
NOT_POLAR = ["nsds"]
POLAR = [name for name in ORACLES if name not in NOT_POLAR]
every_oracle = pytest.mark.parametrize("oracle", list(ORACLES))
every_oracle_and_dtype = pytest.mark.parametrize(
    ("oracle", "dtype"), [(o, d) for o in ORACLES for d in DTYPES if DTYPES[d] in ORACLES[o].dtypes]
)


def fp32(name: str) -> Oracle:
    """The oracle, independent of whether this machine's CPU has native bfloat16."""
    alone = name in EXACT or torch.float32 not in ORACLES[name].dtypes
    return make_oracle({"type": name} if alone else {"type": name, "dtype": "float32"})


@every_oracle_and_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_dtype_and_layout(oracle: str, dtype: str, shape: tuple[int, int]) -> None:
    """The result has the shape of the input, in float32, contiguous, and without autograd."""
    polar_of = make_oracle({"type": oracle, "dtype": dtype})
    g = gaussian(*shape).requires_grad_()
    u = polar_of(g)
    assert u.shape == g.shape
    assert u.dtype == torch.float32
    assert u.is_contiguous()
    assert not u.requires_grad
    assert u.isfinite().all()


@every_oracle
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_result_dtype(oracle: str, dtype: torch.dtype) -> None:
    """Half-precision gradients come back in float32, float64 stays."""
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert make_oracle(oracle)(gaussian(4, 6, dtype=dtype)).dtype == expected


@every_oracle
def test_float64_is_not_rounded(oracle: str) -> None:
    """Without a dtype in its settings an oracle computes float64 input in float64."""
    g = gaussian(8, 24, dtype=torch.float64)
    explicit = make_oracle({"type": oracle, "dtype": "float64"})
    assert torch.equal(make_oracle(oracle)(g), explicit(g))


@every_oracle
@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
def test_batches(oracle: str, shape: tuple[int, int]) -> None:
    """Matrices in a batch do not see each other."""
    batch = gaussian(2, 3, *shape, dtype=torch.float64)
    together = make_oracle(oracle)(batch)
    for i in range(2):
        for j in range(3):
            assert error(together[i, j], make_oracle(oracle)(batch[i, j])) < 1e-8


@every_oracle_and_dtype
@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 5, 0), (0, 0)])
def test_empty(oracle: str, dtype: str, shape: tuple[int, ...]) -> None:
    """No matrices, or matrices without entries, are no error."""
    polar_of = make_oracle({"type": oracle, "dtype": dtype})
    assert polar_of(torch.zeros(shape)).shape == shape


@every_oracle_and_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_stays_zero(oracle: str, dtype: str, shape: tuple[int, int]) -> None:
    """Also beside a matrix that is not zero."""
    polar_of = make_oracle({"type": oracle, "dtype": dtype})
    batch = torch.stack([torch.zeros(shape), gaussian(*shape)])
    u = polar_of(batch)
    assert torch.equal(u[0], torch.zeros(shape))
    assert u[1].any()


@pytest.mark.parametrize(
    ("beta", "steps"), [(0.8, 10), (0.8, 15), (0.5, 30), (0.5, 100), (0.86, 99)]
)
def test_coupled_iteration_does_not_diverge_on_null_directions(beta: float, steps: int) -> None:
    """Rounding makes eigenvalues of Y negative there, and the iteration drives those away."""
    g = gaussian(64, 3, seed=1) @ gaussian(3, 64, seed=2)
    u = make_oracle({"type": "coupled_newton_schulz", "beta": beta, "steps": steps})(g)
    assert torch.linalg.matrix_norm(u, 2) < 2 * beta + 0.05
    assert torch.equal(make_oracle("coupled_newton_schulz")(0 * g), 0 * g)


@every_oracle_and_dtype
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_nan_poisons_its_own_matrix_only(
    oracle: str, dtype: str, poison: float, shape: tuple[int, int]
) -> None:
    """One entry makes its matrix NaN, silently, and leaves the others as they were."""
    polar_of = make_oracle({"type": oracle, "dtype": dtype})
    clean = gaussian(3, *shape)
    poisoned = clean.clone()
    poisoned[1, 2, 3] = poison
    u = polar_of(poisoned)
    assert u[1].isnan().all()
    assert torch.equal(u[::2], polar_of(clean)[::2])


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@every_oracle_and_dtype
def test_scale_does_not_matter(oracle: str, scale: float, dtype: str) -> None:
    """Neither squares that under- or overflow nor the range of half precision."""
    polar_of = make_oracle({"type": oracle, "dtype": dtype})
    g = gaussian(12, 32)
    # A power of two is exact in the input and cancels exactly in the normalisation.
    power_of_two = 2.0 ** round(math.log2(scale))
    assert torch.equal(polar_of(g * power_of_two), polar_of(g))


@every_oracle
@settings(max_examples=15, deadline=None)
@given(m=st.integers(1, 12), n=st.integers(1, 12), exponent=st.floats(-25, 25))
def test_scale_invariance(oracle: str, m: int, n: int, exponent: float) -> None:
    """For every factor, up to the rounding that it brings."""
    g = gaussian(m, n, seed=m * n, dtype=torch.float64)
    assert error(make_oracle(oracle)(g * 10**exponent), make_oracle(oracle)(g)) < 1e-6


@pytest.mark.parametrize("oracle", POLAR)
@settings(max_examples=15, deadline=None)
@given(m=st.integers(1, 12), n=st.integers(1, 12), seed=st.integers(0, 99))
def test_orthogonal_equivariance(oracle: str, m: int, n: int, seed: int) -> None:
    """Rotating the rows and columns rotates the polar factor: no direction is special."""
    g = gaussian(m, n, seed=seed, dtype=torch.float64)
    left, right = orthogonal(m, seed + 1), orthogonal(n, seed + 2)
    polar_of = make_oracle(oracle)
    assert error(polar_of(left @ g @ right), left @ polar_of(g) @ right) < 1e-6


@every_oracle_and_dtype
@pytest.mark.parametrize("shape", [(7, 13), (13, 7), (1, 9)])
def test_transposition(oracle: str, dtype: str, shape: tuple[int, int]) -> None:
    """A tall matrix is treated as the transposed wide one."""
    polar_of = make_oracle({"type": oracle, "dtype": dtype})
    g = gaussian(*shape)
    assert torch.equal(polar_of(g.mT), polar_of(g).mT)


@pytest.mark.parametrize("oracle", [name for name in POLAR if name not in FULL_RANK])
@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)])
def test_rank_deficient(oracle: str, shape: tuple[int, int]) -> None:
    """Few tokens, idle experts: rounding noise in null directions does not come to life."""
    g = gaussian(shape[0], 3, seed=1) @ gaussian(3, shape[1], seed=2)
    u = fp32(oracle)(g).double()
    truth = polar(g, rank=3)
    left, right = truth @ truth.mT, truth.mT @ truth
    assert (u - left @ u @ right).norm() < 5e-3  # 3 is the rank, so sqrt(3) the norm of U
    if oracle in EXACT:
        # Noise of so small a matrix comes within a factor of 2 of the adaptive oracle's cutoff.
        assert error(u, truth) < (3e-4 if oracle == "adaptive" else 1e-5)


@pytest.mark.parametrize("oracle", FULL_RANK)
@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_rank_deficient_input_of_those_not_made_for_it(oracle: str, shape: tuple[int, int]) -> None:
    """Noise comes to life, at most at full strength; the true directions are right."""
    g = gaussian(shape[0], 3, seed=1) @ gaussian(3, shape[1], seed=2)
    u = fp32(oracle)(g).double()
    truth = polar(g, rank=3)
    assert error(truth @ truth.mT @ u, truth) < 1e-4
    assert torch.linalg.matrix_norm(u, 2) < 1 + 1e-4


HALF = ["newton_schulz", "polar_express", "gram_newton_schulz", "gram_polar_express", "nsds"]


@pytest.mark.parametrize("oracle", HALF)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(32, 32), (24, 96), (96, 24)])
def test_half_precision(oracle: str, dtype: str, shape: tuple[int, int]) -> None:
    """Near what the same iteration gives in float32."""
    g = ill_conditioned(min(shape), max(shape), condition=20).float()
    g = g if shape[0] <= shape[1] else g.mT
    tolerance = 0.08 if dtype == "bfloat16" else 0.01
    assert error(make_oracle({"type": oracle, "dtype": dtype})(g), fp32(oracle)(g)) < tolerance


@pytest.mark.parametrize("oracle", ITERATIONS)
def test_autocast_does_not_reach_in(oracle: str) -> None:
    """float32 is float32 inside of an autocast region as well."""
    g = gaussian(16, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fp32(oracle)(g)
    assert torch.equal(inside, fp32(oracle)(g))


@every_oracle_and_dtype
def test_input_is_left_alone(oracle: str, dtype: str) -> None:
    """Not written, and not shared with the result, which the caller may write."""
    polar_of = make_oracle({"type": oracle, "dtype": dtype})
    g = gaussian(4, 4)
    before = g.clone()
    polar_of(g).zero_()
    assert torch.equal(g, before)


@pytest.mark.parametrize("oracle", ITERATIONS)
@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8), (1, 5)])
@pytest.mark.parametrize("steps", [1, 2, 5, 7])
def test_flops(oracle: str, shape: tuple[int, int], steps: int) -> None:
    """The count is that of the products which run."""
    polar_of = make_oracle({"type": oracle, "steps": steps, "dtype": "float32"})
    with FlopCounterMode(display=False) as counter:
        polar_of(gaussian(3, *shape))
    assert 3 * polar_of.flops(*shape) == counter.get_total_flops()


@every_oracle
def test_flops_order_matrices_by_cost(oracle: str) -> None:
    """A planner balances by it: symmetric in m and n, cubic in size."""
    flops = make_oracle(oracle).flops
    assert flops(64, 256) == flops(256, 64) > 0
    assert flops(128, 512) == pytest.approx(8 * flops(64, 256), rel=1e-5)
    assert flops(128, 512) > flops(128, 256)


@every_oracle
def test_a_failing_decomposition_gives_nan(oracle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LAPACK may fail to converge; the rank must go on to the next collective."""

    def fail(*_: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(ORACLES[oracle], "_iterate", fail)
    assert make_oracle(oracle)(gaussian(2, 4, 6)).isnan().all()


@every_oracle
@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(3, 3, dtype=torch.int64)])
def test_not_a_matrix(oracle: str, bad: torch.Tensor) -> None:
    """Vectors and integers are refused, with what was expected."""
    with pytest.raises(ValueError, match=r"floating \[\.\.\., m, n\]"):
        make_oracle(oracle)(bad)


def test_truth_helper() -> None:
    """The tests' own construction has the singular values that it says."""
    sigma = torch.tensor([3.0, 2.0, 0.5])
    values = torch.linalg.svdvals(with_singular_values(sigma, 5))
    assert torch.allclose(values, sigma.double())
