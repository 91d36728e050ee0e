"""Test matrices with their true polar factors."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES: dict[str, tuple[int, ...]] = {
    "square": (512, 512),
    "4:1": (2048, 512),
    "1:8": (256, 2048),
    "experts": (8, 256, 128),
    "head": (32000, 2048),
}
QUICK_SHAPES: dict[str, tuple[int, ...]] = {
    "square": (64, 64),
    "4:1": (128, 32),
    "1:8": (16, 128),
    "experts": (4, 32, 16),
}
SPECTRA = ("gaussian", "condition 1e3", "condition 1e6", "rank-deficient")


@dataclass(frozen=True)
class Case:
    """The input of the oracles, and the output that is right.

    Attributes:
        shape: a name of the shape.
        spectrum: a name of the singular values' distribution.
        matrix: ``[..., m, n]`` in float32.
        truth: its polar factor in float64.
        nuclear: its nuclear norms ``[...]`` in float64.
        resolved_only: whether errors count only where ``truth`` is not null.
    """

    shape: str
    spectrum: str
    matrix: Tensor
    truth: Tensor
    nuclear: Tensor
    resolved_only: bool = False


RESOLVED = 1e-6
"""Of the largest singular value of a gradient. What is below came from the rounding of the backward
pass, and whether an oracle keeps or drops it is no error."""


def cases(
    shapes: dict[str, tuple[int, ...]], spectra: tuple[str, ...], seed: int = 0
) -> Iterator[Case]:
    """Make every shape with every spectrum, one at a time: large ones fill the memory."""
    for name, shape in shapes.items():
        for spectrum in spectra:
            matrix, rank = matrix_with(spectrum, shape, seed)
            yield case(name, spectrum, matrix.float(), rank)


def case(shape: str, spectrum: str, matrix: Tensor, rank: int | None = None) -> Case:
    """Make a matrix with the truth about it, from a float64 SVD of its float32 entries."""
    u, sigma, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    truth = u[..., :rank] @ vt[..., :rank, :]
    return Case(shape, spectrum, matrix, truth, sigma[..., :rank].sum(-1))


def gradient_case(shape: str, matrix: Tensor) -> Case:
    """Make the case of a gradient; the truth is null where float32 resolves no direction."""
    u, sigma, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = sigma > RESOLVED * sigma[..., :1]
    truth = (u * kept.unsqueeze(-2)) @ vt
    return Case(shape, "gradient", matrix, truth, sigma.sum(-1), resolved_only=True)


def matrix_with(spectrum: str, shape: tuple[int, ...], seed: int) -> tuple[Tensor, int]:
    """Make a float64 matrix; return it with its rank."""
    generator = torch.Generator().manual_seed(seed)

    def gaussian(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    *batch, m, n = shape
    small = min(m, n)
    if spectrum == "gaussian":
        return gaussian(*shape), small
    if spectrum == "rank-deficient":
        rank = small // 4
        return gaussian(*batch, m, rank) @ gaussian(*batch, rank, n), rank
    decades = float(spectrum.removeprefix("condition 1e"))
    left, right = (torch.linalg.qr(gaussian(*batch, size, small))[0] for size in (m, n))
    sigma = torch.logspace(0, -decades, small, dtype=torch.float64)
    return (left * sigma) @ right.mT, small
