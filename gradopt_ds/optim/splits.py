"""Splits: which matrices lie in one parameter. Pure functions of shapes.

Model libraries put several matrices into one tensor: all experts of a layer, gate and up of a
gated MLP, queries, keys and values. To a matrix rule they are matrices of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from gradopt_ds.matrices import Arrangement, Block

Split = PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)] | Literal["heads"]
"""How the outputs of a matrix, or of every matrix of a stack, are divided: the number of equal
parts, the outputs of each part, or the heads of the attention. Outputs are rows, unless the module
is known to store them as columns."""


@dataclass(frozen=True)
class Inside:
    """Which matrices lie in a weight, as its module says.

    Attributes:
        reason: in words, for the table of rules.
        sizes: outputs of each matrix, in one group.
        groups: how many such groups follow one another; more than one interweave the matrices.
        transposed: stored as ``[inputs, outputs]``.
        stack: how many weights of that kind a 2-D parameter holds, one below the other.
        heads: outputs of each head of an attention, in order, as often as they fit; nothing if the
            outputs are not of heads.
    """

    reason: str
    sizes: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    stack: int = 1
    heads: tuple[int, ...] = ()

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether a parameter of this shape can hold such matrices."""
        if len(shape) not in (2, 3) or shape[-2] % self.stack or min(self.sizes, default=0) < 1:
            return False
        outputs = shape[-1] if self.transposed else shape[-2] // self.stack
        return self.groups * sum(self.sizes) == outputs

    def blocks(self, shape: Sequence[int]) -> tuple[Block, ...]:
        """Return the matrices of a parameter, by position.

        Args:
            shape: of the parameter; it must fit.
        """
        return _blocks(self._each(shape), self.sizes, self.transposed)

    def split(self, shape: Sequence[int], split: int | Sequence[int]) -> tuple[Block, ...]:
        """Return the matrices as a user divides the outputs: in parts that follow one another.

        Raises:
            ValueError: the parts do not add up to the outputs.
        """
        return blocks_of(self._each(shape), split, self.transposed)

    def _each(self, shape: Sequence[int]) -> tuple[int, ...]:
        *stacked, rows, columns = shape
        return (prod(stacked) * self.stack, rows // self.stack, columns)


def blocks_of(
    shape: Sequence[int], split: int | Sequence[int] = 1, transposed: bool = False
) -> tuple[Block, ...]:
    """Return the matrices of a parameter, by position.

    Args:
        shape: of the parameter, ``[rows, columns]`` or ``[count, rows, columns]``.
        split: how the outputs are divided: the number of equal parts, or the outputs of each.
        transposed: outputs are columns, not rows.

    Raises:
        ValueError: another number of dimensions, or the parts do not add up to the outputs.
    """
    if len(shape) not in (2, 3):
        raise ValueError(f"a parameter of shape {tuple(shape)} is neither matrix nor stack of them")
    outputs, name = (shape[-1], "columns") if transposed else (shape[-2], "rows")
    sizes = [outputs // max(split, 1)] * split if isinstance(split, int) else list(split)
    if sum(sizes) != outputs or min(sizes, default=0) < 1:
        parts = f"{split} equal parts" if isinstance(split, int) else f"parts of {sizes} {name}"
        raise ValueError(f"{outputs} {name} cannot be split into {parts}")
    return _blocks(shape, sizes, transposed)


def _blocks(shape: Sequence[int], sizes: Sequence[int], transposed: bool) -> tuple[Block, ...]:
    """Divide every matrix of a stack, or the one; sizes that repeat are interwoven."""
    *stacked, rows, columns = shape
    count = stacked[0] if stacked else 1
    if transposed or sum(sizes) < rows:
        arrangement = Arrangement(tuple(sizes), transposed)
        step = rows * columns
        return tuple(Block(i * step, rows, columns, arrangement) for i in range(count))
    bounds = accumulate(list(sizes) * count, initial=0)
    return tuple(Block(first * columns, stop - first, columns) for first, stop in pairwise(bounds))
