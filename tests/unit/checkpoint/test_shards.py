"""Whole parameters from tensor-parallel shards, and shards from whole parameters."""

import pytest
import torch

from gradopt_ds.checkpoint import Cut, Group, Record, State, TensorRanks, as_whole, join, shard

WHOLE = torch.arange(24.0).view(6, 4)
FUSED = Cut((6, 4), 0, ((1, 1), (3, 1)))
"""Two sub-parameters of 2 and 4 rows."""


def states(*tensors: torch.Tensor, step: float = 3.0) -> list[State]:
    """Of two ranks, with what belongs to all elements alike."""
    return [State({"fp32": tensor}, {"step": torch.tensor(step)}) for tensor in tensors]


@pytest.mark.parametrize(
    ("cut", "rows"),
    [
        (Cut((6, 4), 0, ((2, 4),)), ([0, 1], [2, 3, 4, 5])),
        (FUSED, ([0, 2, 3, 4], [1, 5])),
        (Cut((6, 4)), (list(range(6)), list(range(6)))),
    ],
)
def test_there_and_back(cut: Cut, rows: tuple[list[int], list[int]]) -> None:
    """Rows as they are written down here."""
    shards = states(*(WHOLE[kept] for kept in rows))
    whole = join("w", shards, cut)
    assert torch.equal(whole.elements["fp32"], WHOLE) and whole.shared["step"] == 3
    for rank, kept in enumerate(rows):
        assert torch.equal(shard(whole, cut, rank).elements["fp32"], WHOLE[kept])


def test_columns() -> None:
    """One column, then three."""
    cut = Cut((6, 4), 1, ((1, 3),))
    whole = join("w", states(WHOLE[:, :1], WHOLE[:, 1:]), cut)
    assert torch.equal(whole.elements["fp32"], WHOLE)
    assert torch.equal(shard(whole, cut, 1).elements["fp32"], WHOLE[:, 1:])


def test_unequal_copies_are_refused() -> None:
    """One of them would be lost."""
    with pytest.raises(ValueError, match=r"different copies of 'w' \(fp32\)"):
        join("w", states(WHOLE, WHOLE + 1), Cut((6, 4)))


def test_different_counters_are_refused() -> None:
    """A whole parameter has one."""
    others = [*states(WHOLE[:2]), *states(WHOLE[2:], step=4.0)]
    with pytest.raises(ValueError, match="different state of 'w'"):
        join("w", others, Cut((6, 4), 0, ((2, 4),)))


def test_the_record_of_the_whole() -> None:
    """Shapes of whole parameters, and no rank."""
    group = Group("matrix", {"w": (2, 4)})
    record = Record("SWAN", 2, 1, (group,), (), TensorRanks(0, 2, {"w": Cut((6, 4), 0, ((2, 4),))}))
    assert as_whole(record) == Record("SWAN", 2, 1, (Group("matrix", {"w": (6, 4)}),))
