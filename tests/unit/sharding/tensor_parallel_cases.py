"""Random matrices cut twice: by tensor parallelism, unevenly too, then by any ZeRO stage."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from gradopt_ds.matrices import Block
from gradopt_ds.sharding import (
    Layout,
    Matrix,
    chunked_layout,
    contiguous_layout,
    tensor_parallel_layout,
)

SIDES = st.integers(1, 7)


@dataclass(frozen=True)
class TensorCase:
    """What T tensor-parallel ranks hold, each over D data-parallel ranks.

    Attributes:
        columns: the layout of each tensor-parallel rank.
        axes: for each matrix along which dimension it is cut; None for copies.
    """

    columns: tuple[Layout, ...]
    axes: tuple[int | None, ...]

    @property
    def layout(self) -> Layout:
        """Of the whole matrices, over all ranks."""
        return tensor_parallel_layout(self.columns, self.axes)

    def place(self, rank: int) -> tuple[Layout, int]:
        """The layout of a rank's tensor-parallel rank, and its data-parallel rank."""
        data_rank, column = divmod(rank, len(self.columns))
        return self.columns[column], data_rank

    def parts(self, index: int, whole: Tensor) -> list[Tensor]:
        """What each tensor-parallel rank holds of a matrix, cut by torch."""
        axis = self.axes[index]
        if axis is None:
            return [whole] * len(self.columns)
        shapes = [(c.matrices[index].rows, c.matrices[index].columns) for c in self.columns]
        return list(whole.split([shape[axis] for shape in shapes], axis))

    def wholes(self, generator: torch.Generator) -> list[Tensor]:
        """Whole matrices of small integers."""
        shapes = [(m.rows, m.columns) for m in self.layout.matrices]
        return [torch.randint(-1, 2, shape, generator=generator).float() for shape in shapes]

    def slices(self, wholes: Sequence[Tensor], padding: float) -> list[Tensor]:
        """Every rank's slice, filled by the layout of its tensor-parallel rank alone."""
        slices = []
        for rank in range(self.layout.world_size):
            column, data_rank = self.place(rank)
            slice_ = torch.full((column.slice_size,), padding)
            for index, whole in enumerate(wholes):
                part = self.parts(index, whole)[rank % len(self.columns)].flatten()
                if piece := column.piece(index, data_rank):
                    slice_[piece.in_slice] = part[piece.matrix_start : piece.matrix_stop]
            slices.append(slice_)
        return slices


@st.composite
def tensor_cases(draw: st.DrawFn, most_tensor: int = 4, most_data: int = 3) -> TensorCase:
    """Up to five parameters of one to three matrices; parts may be empty, chunks padded."""
    tensor, data = draw(st.integers(1, most_tensor)), draw(st.integers(1, most_data))
    chunked = draw(st.booleans())
    parameters = [draw(_parameters(tensor)) for _ in range(draw(st.integers(1, 5)))]
    columns = []
    for rank in range(tensor):
        blocks = {f"{i}": shapes[rank] for i, (_, shapes) in enumerate(parameters)}
        flat = [Matrix(name, 1, sum(b.numel for b in inside)) for name, inside in blocks.items()]
        columns.append(draw(_zero(flat, data, chunked)).split(blocks))
    axes = tuple(axis for axis, shapes in parameters for _ in shapes[0])
    return TensorCase(tuple(columns), axes)


@st.composite
def _parameters(draw: st.DrawFn, tensor: int) -> tuple[int | None, list[list[Block]]]:
    """An axis, and for each tensor-parallel rank the blocks of its part of one parameter."""
    axis = draw(st.sampled_from([0, 1, None]))
    count = draw(st.integers(1, 3))
    width = draw(SIDES)
    heights = draw(st.lists(SIDES, min_size=count, max_size=count))
    if axis is None:
        shapes = [[(m, width) for m in heights]] * tensor
    elif axis == 1:
        shapes = [[(m, n) for m in heights] for n in draw(_sizes(tensor))]
    else:
        by_block = [draw(_sizes(tensor)) for _ in heights]
        shapes = [[(rows[rank], width) for rows in by_block] for rank in range(tensor)]
    return axis, [_blocks(own) for own in shapes]


def _sizes(tensor: int) -> st.SearchStrategy[list[int]]:
    sizes = st.lists(st.integers(0, 4), min_size=tensor, max_size=tensor)
    return sizes.filter(any)


def _blocks(shapes: Sequence[tuple[int, int]]) -> list[Block]:
    blocks: list[Block] = []
    for rows, columns in shapes:
        offset = blocks[-1].where.stop if blocks else 0
        blocks.append(Block(offset, rows, columns))
    return blocks


@st.composite
def _zero(draw: st.DrawFn, flat: Sequence[Matrix], data: int, chunked: bool) -> Layout:
    if chunked:
        chunks = [-(-m.numel // data) + draw(st.integers(0, 2)) for m in flat]
        return chunked_layout(flat, chunks, data)
    offsets, position = [], 0
    for matrix in flat:
        offsets.append(position)
        position += matrix.numel + draw(st.integers(0, 3))
    return contiguous_layout(flat, offsets, -(-position // data) + draw(st.integers(1, 4)), data)
