"""Matrices that tensor-parallel ranks cannot put together are refused by name."""

from typing import Any

import pytest
from torch import nn

from gradopt_ds.integration.parallel.tensor import TensorParallel, _check_matrices
from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.matrices import Arrangement, Block
from gradopt_ds.optim import SWAN
from gradopt_ds.optim.param_groups import Assignment


def check(block: Block, cut: TensorCut) -> None:
    """A weight of shape 6 x 4 with one block in it."""
    weight = nn.Linear(4, 6, bias=False).weight
    assignment = Assignment("w", (6, 4), "matrix", "by hand", (block,))
    group: dict[str, Any] = {"params": [weight], "rule": "matrix"}
    optimizer = SWAN([{**group, "assignments": {weight: assignment}}])
    _check_matrices(optimizer, {weight: "w"}, TensorParallel(0, 2, None, {weight: cut}))  # type: ignore[arg-type]


HALVES = TensorCut((6, 4), 0, ((3, 3),))
STORED_AS_COLUMNS = Block(0, 6, 4, Arrangement((4,), transposed=True))


def test_what_is_put_together_is_accepted() -> None:
    """A cut matrix in order; a copy of whatever lies in it."""
    check(Block(0, 6, 4), HALVES)
    check(STORED_AS_COLUMNS, TensorCut((6, 4)))


@pytest.mark.parametrize(
    ("block", "cut", "message"),
    [
        (STORED_AS_COLUMNS, HALVES, "'w' holds matrices that are interwoven or stored as columns"),
        (Block(0, 6, 4), TensorCut((6, 4), 0, ((1, 1), (2, 2))), "'w' consists of 2 sub-param"),
        (Block(0, 6, 4), TensorCut((12, 4), 0, ((6, 6),)), "'w' is a shard of a parameter"),
    ],
)
def test_what_cannot_be_put_together_is_refused(block: Block, cut: TensorCut, message: str) -> None:
    """With the name of the parameter."""
    with pytest.raises(ValueError, match=message):
        check(block, cut)
