"""Random layouts of every ZeRO stage: shapes, gaps, slice sizes and world sizes."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import strategies as st

from gradopt_ds.matrices import ExchangeSettings
from gradopt_ds.optim.splits import blocks_of
from gradopt_ds.sharding import Layout, Matrix, chunked_layout, contiguous_layout


@st.composite
def contiguous_layouts(draw: st.DrawFn, most_ranks: int = 7) -> Layout:
    """Flat groups of up to 8 matrices, cut into 1 to ``most_ranks`` equal slices.

    They include one-row matrices, padding between matrices, slices that hold no matrix, more
    ranks than matrices, and cuts in the middle of a row.
    """
    matrices = draw(_matrices())
    gaps = draw(st.lists(st.integers(0, 3), min_size=len(matrices), max_size=len(matrices)))
    world_size = draw(st.integers(1, most_ranks))
    offsets, position = [], 0
    for matrix, gap in zip(matrices, gaps, strict=True):
        offsets.append(position)
        position += matrix.numel + gap
    slice_size = -(-position // world_size) + draw(st.integers(0, 4))
    return contiguous_layout(matrices, offsets, slice_size, world_size)


@st.composite
def chunked_layouts(draw: st.DrawFn, most_ranks: int = 7) -> Layout:
    """Sub-groups of up to 8 matrices, each cut into equal chunks, the last ones padded or empty."""
    matrices = draw(_matrices())
    world_size = draw(st.integers(1, most_ranks))
    chunks = [-(-m.numel // world_size) + draw(st.integers(0, 2)) for m in matrices]
    return chunked_layout(matrices, chunks, world_size)


@st.composite
def split_layouts(draw: st.DrawFn, most_ranks: int = 7) -> Layout:
    """Layouts whose parameters hold several matrices, cut between them and inside."""
    layout = draw(contiguous_layouts(most_ranks) | chunked_layouts(most_ranks))
    split = layout.split(
        {
            matrix.name: blocks_of((matrix.rows, matrix.columns), draw(_parts(matrix.rows)))
            for matrix in layout.matrices
        }
    )
    shapes = [(matrix.rows, matrix.columns) for matrix in split.matrices]
    return replace(split, matrices=_named(shapes))


def layouts(most_ranks: int = 7) -> st.SearchStrategy[Layout]:
    """Layouts of stages 1 and 2, and of stage 3; parameters hold one matrix or several."""
    return contiguous_layouts(most_ranks) | chunked_layouts(most_ranks) | split_layouts(most_ranks)


def _parts(rows: int) -> st.SearchStrategy[list[int]]:
    """Ways to write ``rows`` as a sum."""
    cuts = st.lists(st.integers(1, max(1, rows - 1)), unique=True, max_size=3)
    return cuts.map(lambda at: [b - a for a, b in pairwise(sorted({0, *at, rows}))])


@st.composite
def exchange_settings(draw: st.DrawFn) -> ExchangeSettings:
    """Buckets of one matrix, of a few, of all; strategies that force tall matrices to stay cut."""
    return ExchangeSettings(
        exchange_bucket_size=draw(st.sampled_from([1, 2000, 2**29])),
        exchange_strategy=draw(st.sampled_from([{}, {"tall *": "gram"}, {"*": "owner"}])),
    )


@st.composite
def _matrices(draw: st.DrawFn) -> list[Matrix]:
    sides = st.integers(1, 9)
    return list(_named(draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=8))))


def _named(shapes: list[tuple[int, int]]) -> tuple[Matrix, ...]:
    return tuple(
        Matrix(f"{'tall' if m >= n else 'wide'} {i}", m, n) for i, (m, n) in enumerate(shapes)
    )
