"""Which dtype oracles multiply in by default: set by the tests, never asked of the processor."""

import pytest
import torch

from gradopt_ds.ops.oracles.precision import NATIVE_BFLOAT16

both_compute_dtypes = pytest.mark.parametrize(
    "compute_dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"], indirect=True
)
"""Run a test, or as ``pytestmark`` a module, as on a CPU without and with native bfloat16."""


@pytest.fixture(autouse=True)
def compute_dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """float32 on every machine, unless the test asks for both."""
    dtype: torch.dtype = getattr(request, "param", torch.float32)
    for question in NATIVE_BFLOAT16:
        monkeypatch.setattr(torch.cpu, question, lambda: dtype == torch.bfloat16, raising=False)
    return dtype
