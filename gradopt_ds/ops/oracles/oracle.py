"""What an oracle is: a way to the orthogonal polar factor, exact or approximate."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import WHOLE, RowShards
from gradopt_ds.ops.norms import norm
from gradopt_ds.ops.oracles.precision import DTYPES, default_compute_dtype, full_float32
from gradopt_ds.ops.oracles.symmetric import symmetric_matmul


@dataclass(frozen=True, kw_only=True)
class Oracle(ABC):
    r"""Maps matrices to their orthogonal polar factors.

    .. math::
        G = P\Sigma Q^\top \mapsto PQ^\top, \qquad \text{null directions to } 0

    Here is done, once, what every oracle needs: transposing tall matrices, scaling to Frobenius
    norm 1 before any cast to half precision, and keeping a matrix that is not finite to itself.
    A subclass supplies :meth:`_iterate` and :meth:`_flops`, and its settings as fields.

    Attributes:
        dtype: what the matrices are multiplied in. ``None``: float64 for float64 input, else the
            oracle's own choice for the device.

    Raises:
        ValueError: a setting is out of its range; the message names both.
    """

    name: ClassVar[str]
    dtypes: ClassVar[tuple[torch.dtype, ...]] = tuple(DTYPES.values())
    row_shards: ClassVar[bool] = True
    """Whether it sees the rows of a tall matrix through their Gram matrix alone."""
    decomposes: ClassVar[bool] = False
    """Whether one matrix that is not finite could spoil or stop the batch, as LAPACK's routines
    do. Products keep it to itself."""
    start: ClassVar[float] = 1.0
    """The Frobenius norm of what :meth:`_iterate` is given."""
    sees_wide: ClassVar[bool] = True
    """Whether it is given tall matrices transposed; for rules that are blind to the difference."""

    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        """Check the settings; a subclass adds its own."""
        names = ", ".join(name for name, dtype in DTYPES.items() if dtype in self.dtypes)
        valid = self.dtype is None or self.dtype in self.dtypes
        require(valid, "dtype", f"None or one of {names}", self.dtype)

    def __call__(self, g: Tensor, across: RowShards = WHOLE) -> Tensor:
        """Compute the polar factors of ``g``, without autograd.

        Args:
            g: matrices ``[..., m, n]`` of any floating dtype and scale.
            across: where the other rows are, when ``g`` has only some of a tall matrix's. A rank
                without any passes a row of zeros.

        Returns:
            A new, contiguous ``[..., m, n]`` in float32 (float64 for float64). Zero matrices give
            zeros. A matrix with an entry, or a norm, that is not finite gives NaN in its place, a
            batch for which LAPACK fails gives NaN throughout, and neither gives an exception: one
            rank would stop, and the others would wait for it.

        Raises:
            ValueError: ``g`` has fewer than two dimensions or no floating dtype; rows are
                elsewhere and this oracle needs them all (``row_shards`` is false).
        """
        if g.ndim < 2 or not g.is_floating_point():
            raise ValueError(f"expected floating [..., m, n], got {g.dtype} {list(g.shape)}")
        if across is not WHOLE and not self.row_shards:
            raise ValueError(f"oracle {self.name} needs all rows of a matrix in one place")
        # Autocast and TF32 would multiply in half precision what is asked for in float32.
        with torch.no_grad(), torch.autocast(g.device.type, enabled=False), full_float32():
            return self._polar_factor(g, across)

    def _polar_factor(self, g: Tensor, across: RowShards) -> Tensor:
        result = torch.promote_types(g.dtype, torch.float32)
        if g.numel() == 0:
            return g.to(result, copy=True)
        compute = self._compute_dtype(g)
        tall = self.sees_wide and (across is not WHOLE or g.shape[-2] > g.shape[-1])
        divided = torch.promote_types(result, compute)
        size = norm(g, (-2, -1), across) / self.start
        x = _laid_out(g.to(divided) / _rounded_up(size, divided), tall, compute)
        if self.decomposes:
            x.masked_fill_(size.isnan(), 0)
        try:
            u = self._iterate(x, torch.finfo(result).eps, across)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            # Row shards decompose the same Gram matrix, so they all fail together.
            return g.new_full(g.shape, math.nan, dtype=result)
        polar = _laid_out(u, tall, result)
        return polar.masked_fill_(size.isnan(), math.nan) if self.decomposes else polar

    def flops(self, m: int, n: int) -> int:
        """Count the floating-point operations for one ``m x n`` matrix.

        Returns:
            2mkn for each product of ``m x k`` by ``k x n``, exact for iterations; decompositions
            are estimated. Elementwise work is left out, and symmetric products count in full.
        """
        return self._flops(min(m, n), max(m, n))

    def shard_flops(self, rows: int, n: int) -> int:
        """Count the flops of a rank that has some of the rows of a tall matrix with n columns."""
        return self._flops(n, rows)

    @abstractmethod
    def _iterate(self, x: Tensor, eps: float, across: RowShards) -> Tensor:
        """Compute polar factors of wide matrices.

        Args:
            x: ``[..., m, n]``, m <= n, in the compute dtype, of Frobenius norm ``start`` (or 0).
                Some of the n columns may be elsewhere: products with them go through :func:`gram`.
            eps: relative rounding error of the input, before it came into the compute dtype.
            across: where the columns are.
        """

    @abstractmethod
    def _flops(self, m: int, n: int) -> int:
        """Count the flops for m <= n."""

    def _compute_dtype(self, g: Tensor) -> torch.dtype:
        if self.dtype is not None:
            return self.dtype
        return g.dtype if g.dtype == torch.float64 else self._default_dtype(g.device)

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        """Return the compute dtype for input below float64."""
        return default_compute_dtype(device)


def _rounded_up(size: Tensor, dtype: torch.dtype) -> Tensor:
    """Return norms, 0 apart, in ``dtype``, not below what they are.

    No matrix that is divided by them has a norm above 1, not even where the dtype has few digits
    left for the norm.
    """
    rounded = size.to(dtype)
    above = rounded.nextafter(rounded.new_full((), math.inf))
    return torch.where(size == 0, 1, above).masked_fill(rounded.isinf(), math.nan)


def _laid_out(x: Tensor, transposed: bool, dtype: torch.dtype) -> Tensor:
    """Transpose and cast matrices in one pass, to lie row by row; ``x`` itself if it does."""
    x = x.mT if transposed else x
    return x.to(dtype, memory_format=torch.contiguous_format).contiguous()


def gram(x: Tensor, across: RowShards) -> Tensor:
    """Compute ``x x^T`` of wide matrices ``[..., m, n]`` whose columns may be on several ranks."""
    return across.sum(symmetric_matmul(x, x.mT, exact=True))


def require(valid: bool, setting: str, valid_range: str, value: object) -> None:
    """Refuse a setting.

    Raises:
        ValueError: not ``valid``; names the setting, its range and the value.
    """
    if not valid:
        raise ValueError(f"{setting} must be {valid_range}, got {value!r}")


def is_count(value: object) -> bool:
    """Tell whether ``value`` is an integer of at least 1 (True is not)."""
    return type(value) is int and value >= 1


def is_real(value: object) -> bool:
    """Tell whether ``value`` is a finite number (True is not)."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
