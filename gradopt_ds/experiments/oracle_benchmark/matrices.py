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
    "1k": (1024, 1024),
    "2k": (2048, 2048),
    "4k": (4096, 4096),
    "mlp": (4096, 11008),
    "32 experts": (32, 704, 1280),
}
LARGE = ("head", "1k", "2k", "4k", "mlp", "32 experts")
"""Sizes for GPUs; minutes each on a CPU."""
QUICK_SHAPES: dict[str, tuple[int, ...]] = {
    "square": (64, 64),
    "4:1": (128, 32),
    "1:8": (16, 128),
    "experts": (4, 32, 16),
}
SPECTRA = ("gaussian", "condition 1e3", "condition 1e6", "rank-deficient")

BY_EIGENVECTORS = 1024
"""From this smaller side the truth comes from the eigenvectors of the Gram matrix, in seconds where
an SVD takes minutes. Float64 leaves it right to 1e-16 times the square of the condition, below 1e-7
for what is well enough conditioned to be named here."""
WELL_CONDITIONED = ("gaussian", "condition 1e3", "rank-deficient")


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
    shapes: dict[str, tuple[int, ...]],
    spectra: tuple[str, ...],
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Case]:
    """Make every shape with every spectrum, one at a time: large ones fill the memory.

    Args:
        shapes: by name.
        spectra: by name.
        seed: of the entries, which are the same on every device but for rounding.
        device: where the truth is computed.
    """
    for name, shape in shapes.items():
        for spectrum in spectra:
            matrix, rank = matrix_with(spectrum, shape, seed, device)
            yield case(name, spectrum, matrix.float(), rank)


def case(shape: str, spectrum: str, matrix: Tensor, rank: int | None = None) -> Case:
    """Make a matrix with the truth about it, computed in float64 from its float32 entries."""
    if min(matrix.shape[-2:]) >= BY_EIGENVECTORS and spectrum in WELL_CONDITIONED:
        truth, nuclear = _by_eigenvectors(matrix.double(), rank)
        return Case(shape, spectrum, matrix, truth, nuclear)
    u, sigma, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    truth = u[..., :rank] @ vt[..., :rank, :]
    return Case(shape, spectrum, matrix, truth, sigma[..., :rank].sum(-1))


def _by_eigenvectors(matrix: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    """Return the polar factor and the nuclear norm of the ``rank`` largest directions."""
    if matrix.shape[-2] > matrix.shape[-1]:
        truth, nuclear = _by_eigenvectors(matrix.mT, rank)
        return truth.mT, nuclear
    squares, p = torch.linalg.eigh(matrix @ matrix.mT)
    kept = slice(squares.shape[-1] - (rank or squares.shape[-1]), None)
    sigma, p = squares[..., kept].sqrt(), p[..., kept]
    return (p / sigma.unsqueeze(-2)) @ (p.mT @ matrix), sigma.sum(-1)


def gradient_case(shape: str, matrix: Tensor) -> Case:
    """Make the case of a gradient; the truth is null where float32 resolves no direction."""
    u, sigma, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = sigma > RESOLVED * sigma[..., :1]
    truth = (u * kept.unsqueeze(-2)) @ vt
    return Case(shape, "gradient", matrix, truth, sigma.sum(-1), resolved_only=True)


def matrix_with(
    spectrum: str, shape: tuple[int, ...], seed: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, int]:
    """Make a float64 matrix; return it with its rank."""
    generator = torch.Generator().manual_seed(seed)

    def gaussian(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(device)

    *batch, m, n = shape
    small = min(m, n)
    if spectrum == "gaussian":
        return gaussian(*shape), small
    if spectrum == "rank-deficient":
        rank = small // 4
        return gaussian(*batch, m, rank) @ gaussian(*batch, rank, n), rank
    decades = float(spectrum.removeprefix("condition 1e"))
    left, right = (torch.linalg.qr(gaussian(*batch, size, small))[0] for size in (m, n))
    sigma = torch.logspace(0, -decades, small, dtype=torch.float64, device=device)
    return (left * sigma) @ right.mT, small
