"""Test matrices and the truth about them: float64 SVDs in numpy, no code of the library."""

import numpy as np
import torch
from torch import Tensor

SHAPES = [(6, 6), (48, 48), (16, 64), (64, 16), (7, 13), (13, 7), (1, 9), (9, 1), (1, 1)]


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Independent normal entries; square ones are ill-conditioned, 4:1 ones are not."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def orthogonal(n: int, seed: int) -> Tensor:
    """A float64 rotation."""
    q: Tensor = torch.linalg.qr(gaussian(n, n, seed=seed, dtype=torch.float64))[0]
    return q


def with_singular_values(sigma: Tensor, n: int, seed: int = 0) -> Tensor:
    """A float64 ``[len(sigma), n]`` matrix with the given singular values, random vectors."""
    left = orthogonal(len(sigma), seed)
    right = orthogonal(n, seed + 1)[: len(sigma)]
    return (left * sigma.to(torch.float64)) @ right


def ill_conditioned(m: int, n: int, condition: float) -> Tensor:
    """A float64 matrix whose singular values fall evenly (in log) from 1 to 1 / condition."""
    return with_singular_values(torch.logspace(0, -np.log10(condition), m), n)


def polar(g: Tensor, rank: int | None = None) -> Tensor:
    """The polar factor of one matrix of known rank (default: full)."""
    u, _, vt = np.linalg.svd(g.to(torch.float64).numpy(), full_matrices=False)
    return torch.from_numpy(u[:, :rank] @ vt[:rank])


def singular_values(g: Tensor) -> Tensor:
    """All of them, largest first."""
    return torch.from_numpy(np.linalg.svd(g.to(torch.float64).numpy(), compute_uv=False))


def error(u: Tensor, truth: Tensor) -> float:
    """Relative, in the Frobenius norm."""
    return float((u.double() - truth.double()).norm() / truth.double().norm())
