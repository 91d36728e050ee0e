"""The layouts that DeepSpeed's ZeRO gives a model's matrices, from shapes alone."""

from collections.abc import Sequence
from itertools import accumulate

from torch import nn

from gradopt_ds.integration.parallel.experts import is_spread
from gradopt_ds.integration.zero.cutting import chunk_size, slice_size, sub_groups
from gradopt_ds.matrices import Block
from gradopt_ds.optim import assign_rules
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.sharding import Layout, Matrix, chunked_layout, contiguous_layout


def matrices_of(
    model: nn.Module, include: Sequence[str] = (), spread: bool = False
) -> dict[Matrix, tuple[Block, ...]]:
    """List the parameters that a matrix rule would update, in the model's order.

    Args:
        model: the model; it may be on the meta device.
        include: glob patterns of further matrices (see :func:`gradopt_ds.optim.assign_rules`).
        spread: those of experts that are spread over ranks; else all others.

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
        for param, assignment in assign_rules(model, include).items()
        if assignment.rule == MATRIX and is_spread(param) == spread
    }


def zero_layouts(
    matrices: Sequence[Matrix], stage: int, ranks: int, sub_group_size: int
) -> list[Layout]:
    """Return the layouts of the slices that one step goes through, one after the other.

    Args:
        matrices: one for each parameter of a parameter group, in order; what lies in them is
            found by :meth:`gradopt_ds.sharding.Layout.split` afterwards.
        stage: 1 or 2 for one flat tensor, cut into equal slices; 3 for chunks of every matrix.
        ranks: number of ranks.
        sub_group_size: stage 3 closes a sub-group once a rank's part of it has this many elements.
    """
    if stage < 3:
        *offsets, total = accumulate((m.numel for m in matrices), initial=0)
        return [contiguous_layout(matrices, offsets, slice_size(total, ranks), ranks)]
    chunks = [chunk_size(matrix.numel, ranks) for matrix in matrices]
    return [
        chunked_layout([matrices[i] for i in group], [chunks[i] for i in group], ranks)
        for group in sub_groups(chunks, sub_group_size)
    ]
