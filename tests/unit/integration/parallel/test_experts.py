"""Experts' places in the whole model, and what is said of those that have none."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from deepspeed.checkpoint.constants import DS_AUTOEP_UC_META
from torch import nn

from gradopt_ds.integration.checkpoints.resume import _other_tensors
from gradopt_ds.integration.parallel.experts import Place, places
from gradopt_ds.integration.parallel.experts_on_paper import on_one_rank


def stack(experts: list[int]) -> nn.Module:
    """Two of five experts, as AutoEP describes them."""
    model = nn.Module()
    model.w1 = nn.Parameter(torch.zeros(2, 3, 4))
    meta = {"logical_shape": [5, 3, 4], "local_experts": experts}
    setattr(model.w1, DS_AUTOEP_UC_META, meta)
    return model


def test_a_stack_begins_where_its_first_expert_does() -> None:
    (place,) = places(stack([2, 3])).values()
    assert place == Place("w1", (5, 3, 4), 2 * 3 * 4, ("w1",))


def test_experts_that_are_not_neighbours_are_not_guessed() -> None:
    with pytest.raises(RuntimeError, match=r"'w1' holds the experts \[0, 2\]"):
        places(stack([0, 2]))


def test_frozen_experts_are_not_left_as_they_are(tmp_path: Path) -> None:
    """A universal checkpoint holds other frozen parameters, and not these."""
    expert = nn.Linear(2, 2, bias=False)
    expert.weight.allreduce = False
    with pytest.raises(ValueError, match="'weight' is a frozen parameter of experts"):
        list(_other_tensors(SimpleNamespace(module=expert), set(), tmp_path))


@pytest.mark.parametrize(
    ("shape", "ranks", "message"),
    [
        ((3, 4, 2), 2, "does not divide the 3 experts of 'experts.down_proj'"),
        ((4, 2), 2, r"cannot spread 'experts.down_proj' of shape \(4, 2\)"),
    ],
)
def test_what_cannot_be_spread_is_named(shape: tuple[int, ...], ranks: int, message: str) -> None:
    model = nn.Module()
    model.experts = nn.Module()
    model.experts.down_proj = nn.Parameter(torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        on_one_rank(model, ranks)
    with pytest.raises(ValueError, match="no module with parameters is called experts"):
        on_one_rank(nn.Linear(2, 2), ranks)
