"""An exact polar factor at the cost of a few Cholesky decompositions of the small Gram matrix."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gradopt_ds.matrices.row_shards import WHOLE, RowShards
from gradopt_ds.ops.oracles.oracle import Oracle, gram
from gradopt_ds.ops.oracles.qdwh import qr_step
from gradopt_ds.ops.oracles.symmetric import symmetric_matmul

FLOAT64_GRAM = 4 * torch.finfo(torch.float32).eps
"""Smallest singular value that a float64 Gram matrix of norm 1 resolves safely: its square, 2e-13,
is a thousand times the rounding error of that matrix. For float32 input it is also the cutoff below
which a singular value counts as zero: three times the noise that rounding to float32 leaves in the
null directions of a small matrix, more for a large one."""

QR_BELOW = 1e-3
"""Float64 input with a lower bound below this takes QR steps first: a Gram matrix would cost it
more than 6 of its 16 digits."""

FLOAT32_GRAM = 0.1
"""From this lower bound on a float32 Gram matrix is accurate enough: the error stays below 1e-5."""

ONE = 1 - 1e-8
"""The lower bound at which the iteration stops: a further step would change no float32 number."""

CACHED = 2**19
"""Elements of the Gram matrices that a CPU works on at a time: they stay in its cache, which makes
a batch of 16 matrices of 512 x 512 a fifth faster."""


@dataclass(frozen=True, kw_only=True)
class Adaptive(Oracle):
    r"""QDWH on the Gram matrix; number of steps and precision are chosen for each matrix.

    1. Form the Gram matrix :math:`R = XX^\top` in float64. Products of float32 numbers are exact
       there, so R resolves every singular value that float32 input can represent.
    2. A Cholesky decomposition gives the lower bound
       :math:`\sigma_m^2 \ge 1/\mathrm{tr}\,R^{-1}` of the smallest singular value. It is never too
       high, and too low by a factor of at most m.
    3. If the input is float64 and the bound lies below what R resolves: replace X by its triangular
       QR factor, bound its singular values in the same way, and take QDWH's QR steps.
    4. Take QDWH's Cholesky steps on ``m x m`` matrices: in float64 until the bound has reached 0.1
       (one or two steps), then from a new Gram matrix in float32 (float64 for float64 input).
    5. If the bound was below the cutoff, some singular values may be zero. They end far below 1,
       and :math:`u \mapsto u^9(11 - 9u^2)/2` removes them: it maps 1 to 1 and 0.25 to 2e-5.

    In exact arithmetic every singular value ends within 1e-8 of 1. The error is therefore rounding,
    below 1e-4 for condition numbers up to 1e6. A singular value counts as zero if it is below
    4.8e-7 times :math:`\|R\|_F^{1/2}`, which lies between the largest singular value and
    :math:`m^{1/4}` times it. That is less than the cutoff of ``svd`` and ``eigh`` (for float64
    input the cutoffs are equal). A value within a factor of 3 below the cutoff may end anywhere
    between 0 and 1.

    Source: QDWH, Nakatsukasa, Bai, Gygi (2010); iterating on the Gram matrix and making it anew
    after Dao-AILab, gram-newton-schulz (2025). The combination is this library's.

    The number of steps depends on the values, so a GPU waits for the CPU before each step. Matrices
    whose rows are spread over ranks cannot take QR steps: for them float64 input has the cutoff of
    float32 input.

    Attributes:
        dtype: ``torch.float64``, of the first steps, also for input below.
    """

    name: ClassVar[str] = "adaptive"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float64,)
    decomposes: ClassVar[bool] = True

    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        shape = x.shape
        x = x.reshape(-1, *shape[-2:])
        if x.device.type != "cpu" or across is not WHOLE:
            return self._polar(x, eps, across).reshape(shape)
        few = max(1, CACHED // shape[-2] ** 2)
        return torch.cat([self._polar(part, eps, across) for part in x.split(few)]).reshape(shape)

    def _polar(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        r = gram(x, across)
        # The Frobenius norm of R is nearer to the largest squared singular value than its trace.
        size = torch.linalg.matrix_norm(r, keepdim=True)
        size = size.masked_fill(size == 0, 1)
        r, scale = r / size, size.rsqrt()
        low = cholesky_bound(r)
        if eps >= torch.finfo(torch.float32).eps:
            return by_gram(x, r, low, scale, torch.float32, across)
        hard = (low <= FLOAT64_GRAM).flatten()
        if across is not WHOLE or not bool(hard.any()):
            return by_gram(x, r, low, scale, torch.float64, across)
        polar = torch.empty_like(x)
        easy = ~hard
        polar[hard] = by_qr(x[hard] * scale[hard], x.shape[-1] * eps)
        polar[easy] = by_gram(x[easy], r[easy], low[easy], scale[easy], torch.float64, across)
        return polar

    def _flops(self, m: int, n: int) -> int:
        # Two Gram matrices and two products with X; the bound; inverses and products of 4 steps.
        return 8 * m * m * n + m**3 + 4 * m**3 + 4 * 2 * m**3

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        return torch.float64


def cholesky_bound(r: Tensor) -> Tensor:
    """Bound the smallest singular values from below, by Gram matrices; 0 where there is none."""
    m = r.shape[-1]
    r = padded(r)
    r.diagonal(dim1=-2, dim2=-1)[..., m:] = 1
    factor, info = torch.linalg.cholesky_ex(r)
    failed = (info != 0)[..., None, None]
    if bool(failed.any()):
        # The inverse of a matrix with a zero on its diagonal would raise.
        factor = torch.where(failed, torch.eye(r.shape[-1], dtype=r.dtype, device=r.device), factor)
    inverse = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)
    return inverse[..., :m].sum(-1)[..., None, None].rsqrt().masked_fill(failed, 0)


def padded(r: Tensor) -> Tensor:
    """Copy Gram matrices, on a CPU with some rows and columns of zeros where that is faster.

    At a multiple of 2048 bytes from row to row, whatever walks down a column falls into few lines
    of the cache: torch's Cholesky decomposition of 512 rows takes 6 times as long as that of 520.
    """
    more = 8 if r.device.type == "cpu" and r.shape[-1] % 256 == 0 else 0
    return nn.functional.pad(r, (0, more, 0, more))


def triangular_bound(factor: Tensor) -> Tensor:
    """Bound the smallest singular values of upper triangular matrices from below."""
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=True)
    # A zero on the diagonal makes it infinite or NaN: nothing is known.
    return torch.linalg.matrix_norm(inverse, keepdim=True).reciprocal().nan_to_num(0)


def halley(low: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute QDWH's (a, b, c) for bounds ``[b, 1, 1]``, and where the step sends the bounds.

    See :func:`~.qdwh.halley_weights`; here every matrix of a batch has its own.
    """
    low = low.double()
    d = (4 * (1 - low**2).clamp(min=0) / low**4) ** (1 / 3)
    root = (1 + d).sqrt()
    a = root + (8 - 4 * d + 8 * (2 - low**2) / (low**2 * root)).sqrt() / 2
    b = (a - 1) ** 2 / 4
    c = a + b - 1
    return a, b, c, (low * (a + b * low**2) / (1 + c * low**2)).clamp(max=1)


def by_gram(
    x: Tensor, r: Tensor, low: Tensor, scale: Tensor, dtype: torch.dtype, across: RowShards
) -> Tensor:
    """Take polar factors from a float64 Gram matrix; singular values below its resolution become 0.

    Args:
        x: matrices ``[b, m, n]``.
        r: Gram matrices ``[b, m, m]`` of ``scale * x``, of norm at most 1.
        low: lower bounds ``[b, 1, 1]`` of the singular values of ``scale * x``.
        scale: factors ``[b, 1, 1]``.
        dtype: of the steps on well-conditioned matrices.
        across: where the columns of ``x`` are.
    """
    null = low <= FLOAT64_GRAM
    q, low = by_cholesky(r, low.clamp(FLOAT64_GRAM, 1), FLOAT32_GRAM)
    return completed((scale * q @ x).to(dtype), low, null, across)


def by_qr(x: Tensor, cutoff: float) -> Tensor:
    """Take polar factors of float64 matrices ``[b, m, n]`` of norm at most 1, of any condition."""
    columns, factor = torch.linalg.qr(x.mT)
    low = triangular_bound(factor)
    null = low <= cutoff
    x, low = factor.mT.contiguous(), low.clamp(cutoff, 1)
    while bool((rest := (low < QR_BELOW).flatten()).any()):
        a, b, c, low[rest] = halley(low[rest])
        x[rest] = qr_step(x[rest], a, b, c)
    return completed(x, low, null, WHOLE) @ columns.mT


def completed(x: Tensor, low: Tensor, null: Tensor, across: RowShards) -> Tensor:
    """Take polar factors of matrices whose condition a Gram matrix in their dtype can carry.

    Args:
        x: matrices ``[b, m, n]`` of norm at most 1, but for rounding.
        low: lower bounds ``[b, 1, 1]`` of their singular values, null ones apart.
        null: whether there may be null ones, ``[b, 1, 1]``.
        across: where their columns are.
    """
    q, _ = by_cholesky(gram(x, across), low, ONE)
    x = q @ x
    if not bool(null.any()):
        return x
    r = gram(x, across)
    square = symmetric_matmul(r, r)
    fourth = symmetric_matmul(square, square)
    cleared = symmetric_matmul(fourth, r, scale=-4.5, plus=fourth, times=5.5)
    return torch.where(null, cleared @ x, x)


def by_cholesky(r: Tensor, low: Tensor, until: float) -> tuple[Tensor, Tensor]:
    """Take QDWH's Cholesky steps on Gram matrices, for each matrix as many as it needs.

    Args:
        r: Gram matrices ``[b, m, m]`` of X, of norm at most 1.
        low: lower bounds ``[b, 1, 1]`` of the singular values of X that are not null.
        until: the bound at which to stop.

    Returns:
        The matrices Q such that QX is X after the steps, and its bounds.
    """
    m = r.shape[-1]
    r, low = padded(r), low.clone()
    q = plus_identity(torch.zeros_like(r), 1)
    first = True
    while bool((rest := (low < until).flatten()).any()):
        todo = slice(None) if bool(rest.all()) else rest
        a, b, c, low[todo] = halley(low[todo])
        # The step multiplies X by near I + far W, with W = (I + cR)^-1.
        near, far, c = (weight.to(r.dtype) for weight in (b / c, a - b / c, c))
        factor, _ = torch.linalg.cholesky_ex(plus_identity(c * r[todo], 1))
        w = torch.cholesky_inverse(factor)
        before = q[todo]
        # Both are functions of R, so they commute, and their product is symmetric.
        q[todo] = (
            plus_identity(far * w, near)
            if first
            else symmetric_matmul(far * w, before, plus=near * before)
        )
        first = False
        if bool((low[todo] < until).any()):
            # The step's Gram matrix with one product, since cR = W^-1 - I.
            after = near**2 * r[todo] + far * (far - 2 * near) / c * w
            after = plus_identity(after, 2 * near * far / c)
            r[todo] = symmetric_matmul(far**2 / c * w, w, scale=-1, plus=after)
    return q[:, :m, :m], low


def plus_identity(x: Tensor, weight: Tensor | float) -> Tensor:
    """Add a multiple of the identity to matrices ``[b, m, m]``, in place."""
    x.diagonal(dim1=-2, dim2=-1).add_(weight if isinstance(weight, float | int) else weight[..., 0])
    return x
