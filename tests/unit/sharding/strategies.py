"""Random flat groups: shapes, gaps, slice sizes and world sizes."""

from hypothesis import strategies as st

from gradopt_ds.sharding import Layout, Matrix, contiguous_layout


@st.composite
def layouts(draw: st.DrawFn, most_ranks: int = 7) -> Layout:
    """Flat groups of up to 8 matrices, cut into 1 to ``most_ranks`` equal slices.

    They include one-row matrices, padding between matrices, slices that hold no matrix, more
    ranks than matrices, and cuts in the middle of a row.
    """
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8))
    gaps = draw(st.lists(st.integers(0, 3), min_size=len(shapes), max_size=len(shapes)))
    world_size = draw(st.integers(1, most_ranks))
    matrices = [Matrix(f"matrix {i}", *shape) for i, shape in enumerate(shapes)]
    offsets, position = [], 0
    for matrix, gap in zip(matrices, gaps, strict=True):
        offsets.append(position)
        position += matrix.numel + gap
    slice_size = -(-position // world_size) + draw(st.integers(0, 4))
    return contiguous_layout(matrices, offsets, slice_size, world_size)
