"""The layouts that DeepSpeed's ZeRO gives a model's matrices, from shapes alone."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from torch import nn

from gradopt_ds.matrices import Block
from gradopt_ds.optim import assign_rules
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.sharding import Layout, Matrix, chunked_layout, contiguous_layout

ALIGNMENT = 2
"""Stages 1 and 2 pad a group to a multiple of this times the number of ranks, so that every slice
begins on a multiple of four bytes in half precision."""


def matrices_of(model: nn.Module, include: Sequence[str] = ()) -> dict[Matrix, tuple[Block, ...]]:
    """The parameters that a matrix rule would update, in the order of the model's parameters.

    Args:
        model: the model; it may be on the meta device.
        include: glob patterns of further matrices (see :func:`gradopt_ds.optim.assign_rules`).

    Returns:
        One matrix per parameter, a stack of matrices as one with all their rows; with each the
        matrices that lie in it.

    Raises:
        ValueError: a pattern matches nothing, or a parameter that is not 2-D.
    """
    return {
        Matrix(
            assignment.name,
            sum(block.rows for block in assignment.blocks),
            assignment.blocks[0].columns,
        ): assignment.blocks
        for assignment in assign_rules(model, include).values()
        if assignment.rule == MATRIX
    }


def zero_layouts(
    matrices: Sequence[Matrix], stage: int, ranks: int, sub_group_size: int
) -> list[Layout]:
    """The layouts of the slices that one step goes through, one after the other.

    Args:
        matrices: one for each parameter of a parameter group, in order; what lies in them is
            found by :meth:`gradopt_ds.sharding.Layout.split` afterwards.
        stage: 1 or 2 for one flat tensor, cut into equal slices; 3 for chunks of every matrix.
        ranks: number of ranks.
        sub_group_size: stage 3 closes a sub-group once a rank's part of it has this many elements.
    """
    if stage < 3:
        *offsets, total = accumulate((m.numel for m in matrices), initial=0)
        slice_size = ALIGNMENT * -(-total // (ALIGNMENT * ranks))
        return [contiguous_layout(matrices, offsets, slice_size, ranks)]
    return [
        chunked_layout(group, [_chunk(m, ranks) for m in group], ranks)
        for group in _sub_groups(matrices, ranks, sub_group_size)
    ]


def _sub_groups(matrices: Sequence[Matrix], ranks: int, most: int) -> Iterator[list[Matrix]]:
    group: list[Matrix] = []
    for matrix in matrices:
        group.append(matrix)
        if sum(_chunk(m, ranks) for m in group) >= most:
            yield group
            group = []
    if group:
        yield group


def _chunk(matrix: Matrix, ranks: int) -> int:
    return -(-matrix.numel // ranks)
