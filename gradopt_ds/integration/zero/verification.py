"""Proof before the first step: every rank's slices hold what their layouts say."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from gradopt_ds.integration.zero.slicing import ZeroSlice
from gradopt_ds.sharding import Layout, Piece


def verify(slices: Sequence[ZeroSlice], layouts: Sequence[Layout]) -> None:
    """Compare every rank's slices with the weights that their layouts say they hold.

    Under stage 3 the weights are gathered for it, one at a time. All ranks raise the same error.

    Args:
        slices: of this rank.
        layouts: of their weights, each flattened to one row.

    Raises:
        RuntimeError: a piece differs, so the layout is not the one this reader knows.
        ValueError: a weight holds NaN.
    """
    faults = Faults()
    for slice_, layout in zip(slices, layouts, strict=True):
        _compare(slice_, layout, faults)
    _raise_on_all_ranks(faults)


@dataclass
class Faults:
    """What one rank has found in its slices.

    Attributes:
        misplaced: pieces that are not what the layout says.
        not_numbers: names of weights that hold NaN here.
    """

    misplaced: list[str] = field(default_factory=list)
    not_numbers: list[str] = field(default_factory=list)


def _compare(slice_: ZeroSlice, layout: Layout, faults: Faults) -> None:
    rank = dist.get_rank(slice_.process_group)
    if (size := slice_.tensor.numel()) != layout.slice_size:
        faults.misplaced.append(f"{size} elements instead of {layout.slice_size}")
    for index, (weight, matrix) in enumerate(zip(slice_.weights, layout.matrices, strict=True)):
        with deepspeed.zero.GatheredParameters([weight], enabled=hasattr(weight, "ds_id")):
            piece = layout.piece(index, rank)
            if piece is None:
                continue
            actual, expected = _actual_and_expected(slice_.tensor, piece, weight)
            if torch.equal(actual, expected):
                continue
            if _differ_in_nan_alone(actual, expected):
                faults.not_numbers.append(matrix.name)
            else:
                faults.misplaced.append(f"{matrix.name!r}, {piece}")


def _actual_and_expected(slice_: Tensor, piece: Piece, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a slice holds, and what the weight says it should hold; both 1-D."""
    actual = slice_.detach()[piece.in_slice]
    expected = weight.detach().flatten()[piece.matrix_start : piece.matrix_stop]
    return actual, expected.to(actual)


def _differ_in_nan_alone(actual: Tensor, expected: Tensor) -> bool:
    """Tell whether they are equal once NaN equals itself."""
    return actual.shape == expected.shape and torch.allclose(
        actual, expected, rtol=0, atol=0, equal_nan=True
    )


def _raise_on_all_ranks(faults: Faults) -> None:
    """Raise what any rank reports. Collective: the faults are sent only if a rank has any."""
    is_faulty = bool(faults.misplaced or faults.not_numbers)
    is_any = torch.tensor(float(is_faulty), device=get_accelerator().current_device_name())
    dist.all_reduce(is_any, dist.ReduceOp.MAX)
    if not is_any:
        return
    everywhere = [Faults() for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, faults)
    if misplaced := [
        f"rank {rank}: {'; '.join(theirs.misplaced)}"
        for rank, theirs in enumerate(everywhere)
        if theirs.misplaced
    ]:
        raise RuntimeError(
            f"slices are not what they should be ({'. '.join(misplaced)}). The layout of this "
            "DeepSpeed version is not the one that is known, and training would update the wrong "
            "elements. Please report it with your DeepSpeed config."
        )
    names = sorted({name for theirs in everywhere for name in theirs.not_numbers})
    raise ValueError(
        f"weights hold NaN before the first step: {', '.join(names)}. Initialise them, or load "
        "them into the model, before deepspeed.initialize"
    )
