"""The layout of matrices that tensor parallelism has cut, or copied, before ZeRO cuts them."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from gradopt_ds.sharding.cut import Cut, DoubleCut, Part
from gradopt_ds.sharding.layout import Layout, Matrix


def tensor_parallel_layout(columns: Sequence[Layout], axes: Sequence[int | None]) -> Layout:
    """Join the layouts of tensor-parallel ranks to one of whole matrices over all ranks.

    The ranks of the joint layout: d * T + t is data-parallel rank d of tensor-parallel rank t.

    Args:
        columns: for each of the T tensor-parallel ranks the layout of what it holds, over its data-
            parallel ranks. All list the same matrices in the same order, each with the shape that
            the tensor-parallel rank has of it; it may be empty.
        axes: for each matrix along which dimension its parts are joined; None for a matrix of which
            every tensor-parallel rank holds a copy.

    Returns:
        The joint layout; with one tensor-parallel rank, its own.

    Raises:
        ValueError: the layouts do not list the same matrices over as many ranks, the shapes of a
            matrix's parts do not fit its axis, or a matrix is empty.
    """
    if not columns:
        raise ValueError("expected the layout of at least one tensor-parallel rank")
    first = columns[0]
    for rank, column in enumerate(columns):
        if column.world_size != first.world_size:
            raise ValueError(
                f"tensor-parallel rank {rank} has {column.world_size} data-parallel ranks, rank 0 "
                f"has {first.world_size}"
            )
        if (names := [matrix.name for matrix in column.matrices]) != [
            matrix.name for matrix in first.matrices
        ]:
            raise ValueError(f"tensor-parallel rank {rank} has other matrices than rank 0: {names}")
    if len(axes) != len(first.matrices):
        raise ValueError(f"{len(first.matrices)} matrices have {len(axes)} axes")
    if len(columns) == 1:
        return first
    joined = [
        _join([(column.matrices[index], column.cuts[index]) for column in columns], axis)
        for index, axis in enumerate(axes)
    ]
    return Layout(
        tuple(matrix for matrix, _ in joined),
        tuple(cut for _, cut in joined),
        max(column.slice_size for column in columns),
        len(columns) * first.world_size,
    )


def _join(
    parts: Sequence[tuple[Matrix, Cut | DoubleCut]], axis: int | None
) -> tuple[Matrix, DoubleCut]:
    matrices = [matrix for matrix, _ in parts]
    whole = _whole(matrices, axis)
    cuts = [cut for _, cut in parts if isinstance(cut, Cut)]
    if len(cuts) < len(parts):
        raise ValueError(f"{whole.name!r} has been joined over tensor-parallel ranks before")
    if axis is None:
        copies = tuple(Part(cut, 0, whole.numel) for cut in cuts)
        return whole, DoubleCut(copies, copies=len(cuts))
    spans = pairwise(accumulate((matrix.numel for matrix in matrices), initial=0))
    widths = tuple(matrix.columns for matrix in matrices) if axis == 1 else ()
    return whole, DoubleCut(
        tuple(Part(cut, start, stop) for cut, (start, stop) in zip(cuts, spans, strict=True)),
        widths=widths,
    )


def _whole(parts: Sequence[Matrix], axis: int | None) -> Matrix:
    name = parts[0].name
    if axis not in (None, 0, 1):
        raise ValueError(f"{name!r}: a matrix is cut along axis 0 or 1, or None; got {axis!r}")
    rows, columns = [part.rows for part in parts], [part.columns for part in parts]
    if (axis != 0 and len(set(rows)) > 1) or (axis != 1 and len(set(columns)) > 1):
        shapes = ", ".join(f"{part.rows} x {part.columns}" for part in parts)
        how = "are no copies" if axis is None else f"cannot be joined along axis {axis}"
        raise ValueError(f"{name!r}: parts of {shapes} {how}")
    if len({part.arrangement for part in parts}) > 1:
        raise ValueError(
            f"{name!r}: its parts on the tensor-parallel ranks are interwoven in different ways, "
            f"{', '.join(str(part.arrangement) for part in parts)}: they cannot be joined"
        )
    whole = Matrix(
        name,
        sum(rows) if axis == 0 else rows[0],
        sum(columns) if axis == 1 else columns[0],
        parts[0].arrangement,
    )
    if not whole.numel:
        raise ValueError(f"{name!r} has no elements on any tensor-parallel rank")
    return whole
