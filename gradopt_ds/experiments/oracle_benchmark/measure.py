"""Errors of a polar factor, and times taken in turns."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradopt_ds.experiments.common.device_time import timed
from gradopt_ds.experiments.oracle_benchmark.candidates import BASELINE, Candidate
from gradopt_ds.experiments.oracle_benchmark.matrices import Case
from gradopt_ds.ops import nuclear_norm


@dataclass(frozen=True)
class Row:
    """One candidate on one case.

    Attributes:
        shape: name of the shape.
        size: the shape itself.
        spectrum: name of the spectrum.
        oracle: name of the candidate.
        orthogonality: ``||UU^T - I||_F / sqrt(m)`` on the smaller side; on the range of a
            rank-deficient matrix.
        direction: ``||U - truth||_F / ||truth||_F``; of a gradient on what float32 resolves.
        nuclear: ``<G, U> / ||G||_* - 1``, the largest in size of a batch.
        seconds: median time.
        relative: time over the baseline's.
        flops: operations.
    """

    shape: str
    size: str
    spectrum: str
    oracle: str
    orthogonality: float
    direction: float
    nuclear: float
    seconds: float
    relative: float
    flops: int

    @property
    def flops_per_second(self) -> float:
        """Rate, by the oracle's own count."""
        return self.flops / self.seconds


def measure(
    case: Case,
    candidates: Sequence[Candidate],
    rounds: int,
    longest: float,
    device: torch.device,
    progress: Callable[[str], object],
) -> list[Row]:
    """Run every candidate on a case, ``rounds`` times in turns.

    Candidates that would take longer than ``longest`` seconds a run, by their operations and the
    baseline's rate, are left out.

    Args:
        case: the matrix and the truth about it.
        candidates: the baseline first.
        rounds: number of times; the median counts.
        longest: seconds.
        device: where to compute.
        progress: called with each candidate's name before it runs.
    """
    matrix = case.matrix.to(device)
    m, n = matrix.shape[-2:]
    many = matrix[..., 0, 0].numel()
    baseline = candidates[0]
    assert baseline.name == BASELINE
    _, pace = timed(baseline.run, matrix)
    pace = min(pace, timed(baseline.run, matrix)[1]) / baseline.flops(m, n)
    chosen = [candidate for candidate in candidates if candidate.flops(m, n) * pace <= longest]
    errors = {}
    seconds: dict[str, list[float]] = {candidate.name: [] for candidate in chosen}
    for round_ in range(rounds):
        for candidate in chosen:
            progress(candidate.name)
            u, spent = timed(candidate.run, matrix)
            if round_ == 0:
                errors[candidate.name] = deviations(u.to(case.truth.device), case)
                if device.type == "cuda":
                    # The first call also loads kernels, and compiles what is to be compiled.
                    u, spent = timed(candidate.run, matrix)
            seconds[candidate.name].append(spent)
    unit = statistics.median(seconds[BASELINE])
    return [
        Row(
            case.shape,
            "x".join(map(str, matrix.shape)),
            case.spectrum,
            candidate.name,
            *errors[candidate.name],
            seconds=statistics.median(seconds[candidate.name]),
            relative=statistics.median(seconds[candidate.name]) / unit,
            flops=many * candidate.flops(m, n),
        )
        for candidate in chosen
    ]


def deviations(u: Tensor, case: Case) -> tuple[float, float, float]:
    """Compute orthogonality, direction and nuclear-norm errors of a polar factor."""
    u, truth = u.double(), case.truth
    if u.shape[-2] > u.shape[-1]:
        u, truth = u.mT, truth.mT
    projector = truth @ truth.mT  # the identity, unless the rank is deficient
    if case.resolved_only:
        u = projector @ u @ (truth.mT @ truth)
    gap = projector @ (u @ u.mT) @ projector - projector
    orthogonality = torch.linalg.matrix_norm(gap) / torch.linalg.matrix_norm(projector)
    direction = torch.linalg.matrix_norm(u - truth) / torch.linalg.matrix_norm(truth)
    tall = case.matrix.shape[-2] > case.matrix.shape[-1]
    estimate = nuclear_norm(case.matrix.mT if tall else case.matrix, u.float())
    nuclear = (estimate.double() / case.nuclear - 1).flatten()
    worst = nuclear[nuclear.abs().argmax()]
    return float(orthogonality.max()), float(direction.max()), float(worst)
