"""Symmetric products against float64 products in full."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds.ops.oracles import symmetric
from gradopt_ds.ops.oracles.registry import make_oracle
from gradopt_ds.ops.oracles.symmetric import matmul_plus, symmetric_matmul


@pytest.fixture(autouse=True, scope="module")
def uninitialized_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def commuting(batch: tuple[int, ...], m: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two symmetric matrices whose product is symmetric: polynomials in one matrix."""
    x = torch.randn(*batch, m, m, dtype=torch.float64) / m**0.5
    a = x @ x.mT
    return a.to(dtype), (3 * a - a @ a).to(dtype)


def off(actual: Tensor, wanted: Tensor) -> float:
    return float((actual.double() - wanted).norm() / wanted.norm())


@settings(deadline=None, max_examples=25)
@given(
    m=st.integers(1, 700),
    k=st.integers(1, 40),
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    least=st.sampled_from([1, 512]),
)
def test_gram_matrices(
    m: int, k: int, batch: tuple[int, ...], dtype: torch.dtype, least: int
) -> None:
    x = torch.randn(*batch, m, k, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symmetric, "LEAST", least)
        actual = symmetric_matmul(x, x.mT)
    assert actual.shape == (*batch, m, m)
    assert actual.dtype == dtype
    assert off(actual, x.double() @ x.double().mT) < 4e-7
    if m >= least:
        block = torch.arange(m) // symmetric.BLOCK
        mirrored = block[:, None] != block
        assert torch.equal(actual[..., mirrored], actual.mT[..., mirrored])


@pytest.mark.parametrize("m", [5, 511, 512, 513, 640, 700])
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_a_product_and_a_term(m: int, batch: tuple[int, ...]) -> None:
    a, b = commuting(batch, m, torch.float32)
    wanted = 0.25 * b.double() - 1.5 * a.double() @ b.double()
    before = b.clone()
    assert off(symmetric_matmul(a, b, scale=-1.5, plus=b, times=0.25), wanted) < 1e-6
    assert torch.equal(b, before)
    assert off(symmetric_matmul(a, b, scale=-1.5), -1.5 * a.double() @ b.double()) < 1e-6


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_matmul_plus(batch: tuple[int, ...]) -> None:
    a, b = torch.randn(*batch, 4, 6), torch.randn(*batch, 6, 9)
    c = torch.randn(*batch, 9, 4).mT
    wanted = 2 * c.double() + 3 * a.double() @ b.double()
    assert off(matmul_plus(a, b, scale=3, plus=c, times=2), wanted) < 1e-6
    assert off(matmul_plus(a, b, scale=3), 3 * a.double() @ b.double()) < 1e-6


@pytest.mark.parametrize("name", ["newton_schulz", "gram_newton_schulz", "polar_express", "eigh"])
def test_oracles_with_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.randn(2, 513, 600)
    blocks = make_oracle(name)(g)
    monkeypatch.setattr(symmetric, "LEAST", 1000)
    assert off(blocks, make_oracle(name)(g).double()) < 1e-5
