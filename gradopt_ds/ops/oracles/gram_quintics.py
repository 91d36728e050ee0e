"""Quintic steps on the small Gram matrix, shared by the Gram forms of the iterations."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from gradopt_ds.matrices.row_shards import RowShards
from gradopt_ds.ops.oracles.newton_schulz import Quintic
from gradopt_ds.ops.oracles.oracle import gram, is_count, require
from gradopt_ds.ops.oracles.symmetric import symmetric_matmul


def apply_gram_quintics(
    x: Tensor, quintics: Sequence[Quintic], restarts: Sequence[int], across: RowShards
) -> Tensor:
    r"""Apply polynomials to the singular values by way of the ``m x m`` Gram matrix.

    .. math::
        R = XX^\top,\ Q = I; \qquad F = aI + bR + cR^2,\quad Q \leftarrow QF,\quad
        R \leftarrow FRF; \qquad X \leftarrow QX

    In exact arithmetic what :func:`~.newton_schulz.apply_quintics` gives, with two
    products of size n per run of steps instead of two per step. Rounding errors in the null
    directions of R grow from step to step, so R is made anew from X after each restart.

    Source: Dao-AILab, gram-newton-schulz (2025).

    Args:
        x: wide matrices ``[..., m, n]``, m <= n.
        quintics: the coefficients of each step.
        restarts: numbers of steps after which R is made anew.
        across: where the columns of ``x`` are.

    Returns:
        ``[..., m, n]`` in the dtype of ``x``.
    """
    done = 0
    for steps in _runs(len(quintics), restarts):
        x = _accumulated(gram(x, across), quintics[done : done + steps]) @ x
        done += steps
    return x


def gram_quintics_flops(m: int, n: int, steps: int, restarts: Sequence[int]) -> int:
    """Count the operations of :func:`apply_gram_quintics` on one ``m x n`` matrix."""
    return sum(4 * m * m * n + (4 * run - 3) * 2 * m**3 for run in _runs(steps, restarts))


def check_restarts(restarts: object) -> None:
    """Refuse restarts that are no increasing integers.

    Raises:
        ValueError: names the range and the value.
    """
    counts = isinstance(restarts, tuple) and all(map(is_count, restarts))
    valid = isinstance(restarts, tuple) and counts and all(a < b for a, b in pairwise(restarts))
    require(valid, "restarts", "increasing integers >= 1", restarts)


def _accumulated(r: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    """Return the matrix Q by which the quintics multiply a matrix with Gram matrix ``r``."""
    # Polynomials in one symmetric matrix commute, so all of their products are symmetric.
    first, *others = quintics
    q = factor = _quintic(r, first)
    for quintic in others:
        r = symmetric_matmul(factor, symmetric_matmul(r, factor))
        factor = _quintic(r, quintic)
        q = symmetric_matmul(q, factor)
    return q


def _quintic(r: Tensor, quintic: Quintic) -> Tensor:
    """Compute ``aI + bR + cR^2``."""
    a, b, c = quintic
    factor = symmetric_matmul(r, r, scale=c, plus=r, times=b)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor


def _runs(steps: int, restarts: Sequence[int]) -> Iterator[int]:
    """Return the numbers of steps between restarts."""
    bounds = [0, *(r for r in restarts if r < steps), steps]
    return (after - before for before, after in pairwise(bounds))
