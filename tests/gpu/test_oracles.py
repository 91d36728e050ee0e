"""Every oracle on a GPU is as accurate as on the CPU, and keeps its promises."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gradopt_ds.matrices import RowShards
from gradopt_ds.ops import Eigh, Oracle
from tests.gpu.oracle_grid import faults, label, oracles, special_matrices

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
EVERY = pytest.mark.parametrize("oracle", list(oracles()), ids=label)
DEFAULTS = pytest.mark.parametrize("oracle", [o for o in oracles() if o.dtype is None], ids=label)


@pytest.mark.gpu
@EVERY
def test_as_accurate_as_on_the_cpu(oracle: Oracle) -> None:
    assert not faults(oracle, GPU)


@EVERY
def test_rehearsal_on_the_cpu(oracle: Oracle) -> None:
    assert not faults(oracle, CPU, small=True)


@pytest.mark.gpu
@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input(oracle: Oracle, dtype: torch.dtype) -> None:
    check_half_precision_input(oracle, dtype, GPU)


@DEFAULTS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_rehearsed(oracle: Oracle, dtype: torch.dtype) -> None:
    check_half_precision_input(oracle, dtype, CPU)


def check_half_precision_input(oracle: Oracle, dtype: torch.dtype, device: torch.device) -> None:
    """It means what the same numbers in float32 mean."""
    g = torch.randn(3, 24, 40, device=device).to(dtype)
    assert torch.equal(oracle(g), oracle(g.float()))


@pytest.mark.gpu
@EVERY
def test_special_matrices(oracle: Oracle) -> None:
    check_special_matrices(oracle, GPU)


@DEFAULTS
def test_special_matrices_rehearsed(oracle: Oracle) -> None:
    check_special_matrices(oracle, CPU)


def check_special_matrices(oracle: Oracle, device: torch.device) -> None:
    """Zeros stay, what is not finite keeps to itself, and any scale will do."""
    batch = special_matrices(device)
    u = oracle(batch)
    assert not u[0].any()
    assert u[1].isnan().all() and u[2].isnan().all()
    ordinary = torch.stack([batch[3] * 1e30, batch[4] * 1e-30, batch[5]])
    torch.testing.assert_close(u[3:], oracle(ordinary), atol=0.05, rtol=0)


@pytest.mark.gpu
def test_tf32_does_not_reach_an_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that allows it gets it outside: the product below is off by 1e-4."""
    x = torch.randn(512, 512, device=GPU)
    oracle = Eigh(dtype=torch.float32)
    before, product = oracle(x), x @ x
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert not torch.equal(x @ x, product), "this GPU has no TF32"
        assert torch.equal(oracle(x), before)
    finally:
        torch.set_float32_matmul_precision(was)


@dataclass(frozen=True, kw_only=True)
class TooShort(Eigh):
    """Off by a tenth."""

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        return 0.9 * super()._iterate(x, eps, across)


def test_a_wrong_oracle_has_faults() -> None:
    """On every case where the right one is better than that."""
    wrong = faults(TooShort(dtype=torch.float64), CPU, small=True)
    assert len(wrong) == 6 and "gaussian: 1.00e-01" in wrong[0]
