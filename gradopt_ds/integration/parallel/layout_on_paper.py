"""The layout of matrices that tensor parallelism has cut, and then ZeRO 1 or 2: from shapes."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod

from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.integration.zero.cutting import slice_size
from gradopt_ds.matrices import Block
from gradopt_ds.sharding import Layout, Matrix, contiguous_layout, tensor_parallel_layout


def tensor_layout(
    blocks: Mapping[str, Sequence[Block]], cuts: Mapping[str, TensorCut], tensor: int, data: int
) -> Layout:
    """Return the layout of one flat tensor per tensor-parallel rank, each cut over data ranks.

    Args:
        blocks: name of a parameter → the matrices in it, of the parameters of a group in order.
        cuts: name → how tensor parallelism cuts it.
        tensor: number of tensor-parallel ranks.
        data: number of data-parallel ranks.

    Returns:
        The layout over all ranks; d * T + t is data-parallel rank d of tensor-parallel rank t.
    """
    columns = [_column(blocks, cuts, rank, data) for rank in range(tensor)]
    return tensor_parallel_layout(
        columns, [cuts[name].axis for name, inside in blocks.items() for _ in inside]
    )


def _column(
    blocks: Mapping[str, Sequence[Block]], cuts: Mapping[str, TensorCut], rank: int, data: int
) -> Layout:
    flats = [Matrix(name, 1, prod(cuts[name].shard_shape(rank))) for name in blocks]
    *offsets, total = accumulate((flat.numel for flat in flats), initial=0)
    column = contiguous_layout(flats, offsets, slice_size(total, data), data)
    return column.split(
        {
            name: [cuts[name].block(block, rank) for block in inside]
            for name, inside in blocks.items()
        }
    )
