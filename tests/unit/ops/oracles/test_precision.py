"""The compute dtype of each kind of device."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from gradopt_ds.matrices import RowShards
from gradopt_ds.ops import ORACLES, SVD, default_compute_dtype, make_oracle
from gradopt_ds.ops.oracles.precision import NATIVE_BFLOAT16, full_float32
from tests.unit.ops.matrices import gaussian


@pytest.mark.parametrize("native", [True, False])
def test_gpus_multiply_bfloat16_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    """Older ones emulate it, which torch counts as support unless asked."""
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    expected = torch.bfloat16 if native else torch.float32
    assert default_compute_dtype(torch.device("cuda")) == expected


def test_other_accelerators_multiply_bfloat16() -> None:
    assert default_compute_dtype(torch.device("xpu")) == torch.bfloat16


@pytest.mark.parametrize("native", [True, False])
def test_cpus_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    """Emulated bfloat16 is slower than float32."""
    for name in NATIVE_BFLOAT16:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, NATIVE_BFLOAT16[-1], lambda: native)
    expected = torch.bfloat16 if native else torch.float32
    assert default_compute_dtype(torch.device("cpu")) == expected


def test_a_torch_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The questions are private to torch and may go away."""
    for name in NATIVE_BFLOAT16:
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert default_compute_dtype(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("name", list(ORACLES))
def test_which_oracles_follow_the_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Those that bear bfloat16; the others compute as on every other CPU."""
    g = gaussian(16, 48)
    for question in NATIVE_BFLOAT16:
        monkeypatch.setattr(torch.cpu, question, lambda: False, raising=False)
    without = make_oracle(name)(g)
    monkeypatch.setattr(torch.cpu, NATIVE_BFLOAT16[0], lambda: True, raising=False)
    follows = not torch.equal(make_oracle(name)(g), without)
    assert follows == (name in ("newton_schulz", "polar_express", "nsds"))


BACKENDS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)


@dataclass(frozen=True, kw_only=True)
class Probe(SVD):
    """Notes how float32 would be multiplied in the middle of an oracle."""

    seen: list[str] = field(default_factory=list)

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        self.seen.extend(backend.fp32_precision for backend in BACKENDS)
        return x


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_float32_is_float32_whatever_the_script_allows(allowed: str) -> None:
    """And what it allows holds again afterwards, also when an oracle fails."""
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        outside = [backend.fp32_precision for backend in BACKENDS]
        probe = Probe()
        probe(gaussian(3, 4))
        with pytest.raises(RuntimeError), full_float32():
            raise RuntimeError
        assert set(probe.seen) <= {"ieee", "none"}
        assert [backend.fp32_precision for backend in BACKENDS] == outside
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision(was)


def test_a_script_that_lowers_one_backend_alone() -> None:
    """By torch 2.9's own setting, which the older one knows nothing of."""
    backend = torch.backends.cuda.matmul
    was = backend.fp32_precision
    backend.fp32_precision = "tf32"
    try:
        probe = Probe()
        probe(gaussian(3, 4))
        assert probe.seen[0] == "ieee" and backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = was
