"""Rules on rows of a tall matrix that are spread over ranks (here: threads)."""

import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops import (
    SVD,
    AlternatingNorms,
    grad_norm,
    make_oracle,
    nuclear_norm,
    swan_direction,
)
from tests.compute_dtypes import both_compute_dtypes
from tests.unit.ops.matrices import error, gaussian

ORACLES = [
    "eigh",
    "adaptive",
    "newton_schulz",
    "polar_express",
    "gram_newton_schulz",
    "gram_polar_express",
    "coupled_newton_schulz",
    "nsds",
]


class Threads:
    """Row shards whose ranks are threads that meet at a barrier."""

    def __init__(self, ranks: int, rows: int) -> None:
        self.barrier = threading.Barrier(ranks, timeout=20)
        self.whole_rows = rows
        self.contributions: list[Tensor] = []

    def rows(self, x: Tensor) -> int:
        """Rows of the whole matrix."""
        return self.whole_rows

    def sum(self, x: Tensor) -> Tensor:
        """Over all threads."""
        return self._reduced(x, lambda all_: all_.sum(0))

    def max(self, x: Tensor) -> Tensor:
        """Over all threads."""
        return self._reduced(x, lambda all_: all_.amax(0))

    def _reduced(self, x: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        self.contributions.append(x)
        self.barrier.wait()
        result = reduce(torch.stack(self.contributions))
        if self.barrier.wait() == 0:
            self.contributions = []
        self.barrier.wait()
        return result


def on_shards(
    matrix: Tensor, cuts: list[int], rule: Callable[[Tensor, RowShards], Tensor]
) -> Tensor:
    """Apply a rule to the rows between ``cuts``, each in its thread; put them together."""
    bounds = [0, *cuts, matrix.shape[0]]
    across = Threads(len(bounds) - 1, matrix.shape[0])
    parts: dict[int, Tensor] = {}

    def run(rank: int) -> None:
        rows = matrix[bounds[rank] : bounds[rank + 1]]
        padded = rows if len(rows) else matrix.new_zeros(1, matrix.shape[1])
        parts[rank] = rule(padded, across)[: len(rows)]

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(bounds) - 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return torch.cat([parts[rank] for rank in range(len(bounds) - 1)])


@st.composite
def tall_matrices(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """Tall matrices of any scale, and where their rows are cut; shards may be empty."""
    n = draw(st.integers(2, 6))
    rows = draw(st.integers(n, 30))
    cuts = sorted(draw(st.lists(st.integers(0, rows), min_size=1, max_size=3)))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    scale = 10.0 ** draw(st.sampled_from([-12, 0, 12]))
    return scale * torch.randn(rows, n, generator=seed, dtype=torch.float64), cuts


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=8, deadline=None)
@given(case=tall_matrices())
@example(case=(gaussian(12, 4, dtype=torch.float64), [4, 4]))  # a square shard, an empty one
def test_shards_together_equal_the_whole(name: str, case: tuple[Tensor, list[int]]) -> None:
    """Polar factor and nuclear norm."""
    matrix, cuts = case
    # Only NSDS tells rows from columns; from rows of a square matrix it takes the columns' side.
    assume(name != "nsds" or matrix.shape[0] > matrix.shape[1])
    oracle = make_oracle(name)
    whole = oracle(matrix)
    actual = on_shards(matrix, cuts, oracle)
    torch.testing.assert_close(actual, whole, rtol=1e-7, atol=1e-7)
    norms = on_shards(matrix, cuts, lambda x, a: nuclear_norm(x, oracle(x, a), a).expand(len(x)))
    torch.testing.assert_close(norms, nuclear_norm(matrix, whole).expand(len(matrix)))


@settings(max_examples=8, deadline=None)
@given(case=tall_matrices())
def test_swan_on_shards_equals_the_whole(case: tuple[Tensor, list[int]]) -> None:
    """By the exact oracle: GradNorm leaves a null direction, whose noise iterations amplify."""
    matrix, cuts = case
    oracle = make_oracle("eigh")
    white = on_shards(matrix, cuts, lambda x, across: swan_direction(x, oracle, across))
    torch.testing.assert_close(white, swan_direction(matrix, oracle), rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(case=tall_matrices(), transposed=st.booleans())
def test_alternating_norms_on_shards(case: tuple[Tensor, list[int]], transposed: bool) -> None:
    """Rows of a matrix of any shape: only the column norms are sums over ranks."""
    matrix, cuts = case
    if transposed:
        matrix = matrix.mT.contiguous()
        cuts = [cut for cut in cuts if cut <= matrix.shape[0]]
    rule = AlternatingNorms()
    torch.testing.assert_close(on_shards(matrix, cuts, rule), rule(matrix), rtol=1e-7, atol=1e-7)


@both_compute_dtypes
@pytest.mark.parametrize("name", ["newton_schulz", "polar_express"])
def test_shards_round_as_the_whole_does(name: str, compute_dtype: torch.dtype) -> None:
    """Of float32 matrices, each by its compute dtype: partial Gram matrices are rounded too."""
    matrix = gaussian(60, 12)
    truth = make_oracle(name)(matrix.double())
    of_whole = error(make_oracle(name)(matrix), truth)
    assert of_whole < {torch.float32: 1e-5, torch.bfloat16: 0.05}[compute_dtype]
    # Three partial sums are three roundings where the whole has one.
    assert error(on_shards(matrix, [13, 40], make_oracle(name)), truth) < 3 * of_whole


@pytest.mark.parametrize("name", ["qdwh", "zolo_pd"])
def test_qr_of_all_rows_is_refused(name: str) -> None:
    """Their QR steps need every row."""
    with pytest.raises(ValueError, match=f"{name} needs all rows"):
        make_oracle(name)(gaussian(4, 2), Threads(1, 4))


@both_compute_dtypes
def test_a_nan_reaches_every_shard() -> None:
    """One rank's NaN is everyone's, as it is when one process has the matrix."""
    matrix = gaussian(12, 4)
    matrix[9, 1] = float("nan")
    assert on_shards(matrix, [5], make_oracle("newton_schulz")).isnan().all()


@both_compute_dtypes
def test_a_zero_matrix_stays_zero() -> None:
    """In every shard."""
    assert not on_shards(torch.zeros(9, 3), [4], make_oracle("polar_express")).any()


def test_an_oracle_that_needs_all_rows_says_so() -> None:
    """The SVD is not a function of the Gram matrix."""
    with pytest.raises(ValueError, match="svd needs all rows"):
        SVD()(gaussian(4, 2), Threads(1, 4))


def test_grad_norm_leaves_the_padding_row_alone() -> None:
    """A rank without rows passes zeros, which must stay out of every sum."""
    assert not grad_norm(torch.zeros(1, 5)).any()
