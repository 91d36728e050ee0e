"""The compute dtype of each kind of device."""

import pytest
import torch

from gradopt_ds.ops import ORACLES, default_compute_dtype, make_oracle
from gradopt_ds.ops.oracles.precision import NATIVE_BFLOAT16
from tests.unit.ops.matrices import gaussian


def test_accelerators_multiply_bfloat16() -> None:
    """Tensor cores."""
    assert default_compute_dtype(torch.device("cuda")) == torch.bfloat16


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
