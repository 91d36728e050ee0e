"""Matrices of which shards cannot be joined are refused before the first step."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gradopt_ds.integration.parallel.tensor import _check_matrices
from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.matrices import Block
from gradopt_ds.matrices.arrangement import Arrangement
from gradopt_ds.optim.param_groups import Assignment


@pytest.mark.parametrize("arrangement", [Arrangement((2, 2)), Arrangement((8,), transposed=True)])
def test_shards_of_interwoven_matrices_are_refused(arrangement: Arrangement) -> None:
    """A copy of them is no shard, and is accepted."""
    weight = nn.Parameter(torch.ones(4, 8))
    blocks = (Block(0, 8, 8, arrangement),)
    assignment = Assignment("qkv.weight", (8, 8), "matrix", "interwoven", blocks)
    optimizer: Any = SimpleNamespace(assignments={weight: assignment})
    names = {weight: "qkv.weight"}
    whole: Any = SimpleNamespace(cuts={weight: TensorCut((8, 8))})
    _check_matrices(optimizer, names, whole)
    cut: Any = SimpleNamespace(cuts={weight: TensorCut((8, 8), 0, ((4, 4),))})
    with pytest.raises(ValueError, match="'qkv.weight' holds matrices that are interwoven"):
        _check_matrices(optimizer, names, cut)
