"""Every oracle × compute dtype × shape × spectrum, judged by a float64 SVD on the CPU."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from gradopt_ds.experiments.oracle_benchmark.matrices import SPECTRA, Case, cases
from gradopt_ds.experiments.oracle_benchmark.measure import deviations
from gradopt_ds.ops import ORACLES, Oracle, make_oracle
from gradopt_ds.ops.oracles.precision import DTYPES

SHAPES: dict[str, tuple[int, ...]] = {
    "square": (160, 160),
    "tall": (384, 128),
    "wide": (96, 400),
    "experts": (5, 48, 80),
    "odd": (37, 53),
    "row": (1, 65),
    "column": (65, 1),
}
SMALL: dict[str, tuple[int, ...]] = {"tall": (24, 8), "experts": (3, 6, 10)}

FLOOR = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Errors up to these are rounding, and need not be compared."""
FACTOR = 2
"""What another order of summation may make of an error: rounding in null directions grows from
step to step, so that errors agree in size, not in value."""


def oracles() -> Iterator[Oracle]:
    """Every one in every dtype that it offers, and in its own choice for the device."""
    for name, kind in ORACLES.items():
        yield make_oracle(name)
        for word, dtype in DTYPES.items():
            if dtype in kind.dtypes:
                yield make_oracle({"type": name, "dtype": word})


def label(oracle: Oracle) -> str:
    """For pytest."""
    return f"{oracle.name}-{str(oracle.dtype or 'default').removeprefix('torch.')}"


@cache
def grid(small: bool) -> tuple[Case, ...]:
    """The matrices and the truth about them; made once."""
    return tuple(cases(SMALL if small else SHAPES, SPECTRA))


def faults(oracle: Oracle, device: torch.device, small: bool = False) -> list[str]:
    """Cases on which an oracle is further from the truth on a device than on the CPU.

    The CPU computes in the same dtype, so that the two differ in the order of summation alone.

    Args:
        oracle: in any dtype.
        device: where it is tried.
        small: shapes for a rehearsal.
    """
    dtype = oracle.dtype or oracle._compute_dtype(torch.empty(0, device=device))
    on_cpu = make_oracle({"type": oracle.name, "dtype": name_of(dtype)})
    found = []
    for case in grid(small):
        there = oracle(case.matrix.to(device))
        if there.device.type != device.type or there.dtype != torch.float32:
            found.append(f"{case.shape}: {there.dtype} on {there.device}")
        error = deviations(there.cpu(), case)[1]
        allowed = max(FLOOR[dtype], FACTOR * deviations(on_cpu(case.matrix), case)[1])
        if not error <= allowed:  # NaN too
            found.append(f"{case.shape}, {case.spectrum}: {error:.2e}, allowed {allowed:.2e}")
    return found


def name_of(dtype: torch.dtype) -> str:
    """As JSON writes it."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def special_matrices(device: torch.device) -> Tensor:
    """A batch: zeros, NaN, infinity, far too small, far too large, and an ordinary one."""
    batch = torch.randn(6, 20, 12, generator=torch.Generator().manual_seed(0)).to(device)
    batch[0] = 0
    batch[1, 3, 4] = torch.nan
    batch[2, 5, 6] = torch.inf
    batch[3] *= 1e-30
    batch[4] *= 1e30
    return batch
