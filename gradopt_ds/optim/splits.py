"""Splits: which matrices lie in one parameter. Pure functions of shapes and module flags.

Model libraries put several matrices into one tensor: all experts of a layer, gate and up of a
gated MLP, queries, keys and values. To a matrix rule they are matrices of their own.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn

from gradopt_ds.matrices import Block

Split = PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)]
"""How the rows of a matrix ``[rows, columns]``, or of every matrix of a stack ``[count, rows,
columns]``, are divided: the number of equal parts, or the rows of each part."""


def blocks_of(shape: Sequence[int], split: int | Sequence[int] = 1) -> tuple[Block, ...]:
    """Return the matrices of a parameter, by position.

    Args:
        shape: of the parameter, ``[rows, columns]`` or ``[count, rows, columns]``.
        split: how the rows are divided (see :data:`Split`).

    Raises:
        ValueError: another number of dimensions, or the parts do not add up to the rows.
    """
    if len(shape) not in (2, 3):
        raise ValueError(f"a parameter of shape {tuple(shape)} is neither matrix nor stack of them")
    *stacked, rows, columns = shape
    sizes = [rows // max(split, 1)] * split if isinstance(split, int) else list(split)
    if sum(sizes) != rows or min(sizes, default=0) < 1:
        parts = f"{split} equal parts" if isinstance(split, int) else f"parts of {sizes} rows"
        raise ValueError(f"{rows} rows cannot be split into {parts}")
    bounds = accumulate(sizes * (stacked[0] if stacked else 1), initial=0)
    return tuple(Block(first * columns, stop - first, columns) for first, stop in pairwise(bounds))


def stacked_experts(owner: nn.Module, leaf: str) -> tuple[int, str] | None:
    """Return how experts that are stacked in one 3-D tensor are split, and the reason.

    The expert modules of ``transformers`` say themselves how they store weights: whether gate and
    up follow one another or alternate, and whether a weight is transposed. DeepSpeed's AutoEP puts
    gate, up and down apart and marks each with ``is_expert_group``. Only what can be read there is
    known.

    Args:
        owner: the module that the parameter belongs to.
        leaf: the parameter's name in that module.

    Returns:
        The split; None if the module does not say enough, or keeps columns where rows should be.
    """
    if getattr(getattr(owner, leaf), "is_expert_group", False):
        return 1, "experts stacked in one tensor"
    if getattr(owner, "is_transposed", None) is not False:
        return None
    gated = getattr(owner, "has_gate", None)
    if leaf == "gate_up_proj" and gated is True and getattr(owner, "is_concatenated", None) is True:
        return 2, "experts stacked in one tensor, gate and up apart"
    if leaf == "down_proj" or (leaf == "up_proj" and gated is False):
        return 1, "experts stacked in one tensor"
    return None
