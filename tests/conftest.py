"""Settings that every test needs, before torch or DeepSpeed is imported."""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent

os.environ.setdefault("DS_ACCELERATOR", "cpu")
# DeepSpeed builds a small extension at first use; a build that was killed leaves a lock behind,
# so the tests keep theirs apart from the user's.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(ROOT / ".cache" / "torch_extensions"))
# Two OpenMP threads per process on a busy two-core machine cost far more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests.compute_dtypes import compute_dtype  # noqa: E402
from tests.distributed.plugin import (  # noqa: E402
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_pyfunc_call,
    pytest_terminal_summary,
    pytest_unconfigure,
)
from tests.repeatable import pytest_runtest_setup  # noqa: E402
from tests.two_processes import pytest_xdist_make_scheduler  # noqa: E402

__all__ = [
    "compute_dtype",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_pyfunc_call",
    "pytest_runtest_setup",
    "pytest_terminal_summary",
    "pytest_unconfigure",
    "pytest_xdist_make_scheduler",
]
