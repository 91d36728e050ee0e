"""Symmetric products against float64 products in full."""

from collections.abc import Iterator
from typing import Any

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
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    least=st.sampled_from([1, 512]),
)
def test_gram_matrices(
    m: int, k: int, batch: tuple[int, ...], dtype: torch.dtype, least: int
) -> None:
    x = torch.randn(*batch, m, k, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symmetric, "LEAST", {dtype: least})
        actual = symmetric_matmul(x, x.mT, exact=True)
    assert actual.shape == (*batch, m, m)
    assert actual.dtype == dtype
    # Of bfloat16 what is stored is rounded, once: sums are in float32.
    assert off(actual, x.double() @ x.double().mT) < (2**-8 if dtype == torch.bfloat16 else 4e-7)
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


@pytest.mark.parametrize("m", [640, 700])
def test_bfloat16_blocks_are_as_right_as_the_whole_product(
    m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against float64, for all kinds of product that oracles ask for."""
    a, b = commuting((2,), m, torch.bfloat16)
    x = torch.randn(2, m, 300).bfloat16()
    products: list[tuple[Tensor, Tensor, dict[str, Any]]] = [
        (x, x.mT, {"exact": True}),
        (a, a, {"exact": True, "plus": a, "times": 2.0, "scale": -1.5}),
        (a, b, {"plus": b, "times": 2.0, "scale": -1.5}),
    ]
    for left, right, more in products:
        wanted = more.get("scale", 1) * left.double() @ right.double()
        wanted += more["times"] * more["plus"].double() if "plus" in more else 0
        blocks = off(symmetric_matmul(left, right, **more), wanted)
        with monkeypatch.context() as patch:
            patch.setattr(symmetric, "LEAST", {})
            whole = off(symmetric_matmul(left, right, **more), wanted)
        assert blocks < 1.01 * whole < 2**-8


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
    monkeypatch.setattr(symmetric, "LEAST", {})
    assert off(blocks, make_oracle(name)(g).double()) < 1e-5


GRAM_AND_PLAIN = ["newton_schulz", "polar_express", "gram_newton_schulz", "gram_polar_express"]


@pytest.mark.parametrize("name", GRAM_AND_PLAIN)
def test_bfloat16_oracles_err_no_more_than_without(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Singular values over three decades: rounded factors of a product do not commute."""
    q, _ = torch.linalg.qr(torch.randn(640, 640, dtype=torch.float64))
    p, _ = torch.linalg.qr(torch.randn(1376, 640, dtype=torch.float64))
    g = (q * torch.logspace(0, -3, 640, dtype=torch.float64) @ p.mT).float()
    oracle = make_oracle({"type": name, "dtype": "bfloat16"})
    blocks = off(oracle(g), q @ p.mT)
    monkeypatch.setattr(symmetric, "LEAST", {})
    assert blocks < 1.005 * off(oracle(g), q @ p.mT)
