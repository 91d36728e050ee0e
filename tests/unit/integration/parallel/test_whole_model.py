"""What is remembered of a model while AutoTP cuts it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.integration.parallel.whole_model import WholeModel
from gradopt_ds.optim import SWAN, matrix_param_groups
from gradopt_ds.optim.facts import read_facts

ROWS = TensorCut((6, 4), 0, ((2, 4),))


def model() -> Any:
    """A hidden linear layer and a norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.LayerNorm(6))


def cuts_of(cut: Any, of_weight: TensorCut) -> dict[torch.Tensor, TensorCut]:
    """The linear weight is cut so, the norm is copied."""
    params = dict(cut.named_parameters())
    return {p: of_weight if n == "0.weight" else TensorCut((6,)) for n, p in params.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_facts_and_rules_of_the_whole_model_stay(dtype: torch.dtype) -> None:
    """The module and the shape are others; the rule is the same."""
    cut = model().to(dtype)
    whole = WholeModel.read(cut)
    cut[0].weight.data = cut[0].weight.data[2:].clone()
    replaced: Any = nn.Module()
    replaced.weight = cut[0].weight
    cut[0] = replaced
    whole.carry_over(cut, cuts_of(cut, ROWS), rank=1, client=None)
    facts = read_facts(cut)[cut[0].weight]
    assert facts.shape == (6, 4) and facts.owners == {"linear"}
    groups = matrix_param_groups(cut)
    assert [group["rule"] for group in groups] == ["matrix", "aux"]
    assert groups[0]["assignments"][cut[0].weight].blocks[0].numel == 24
    # DeepSpeed's gradient norm counts what is marked on every rank, and the rest on one.
    assert cut[0].weight.tensor_model_parallel and not cut[1].weight.tensor_model_parallel


@pytest.mark.parametrize(
    ("shard", "rank", "said"),
    [
        (lambda w: w[:2], 1, ROWS),  # of another rank
        (lambda w: w[2:].flip(0), 1, ROWS),  # in another order
        (lambda w: w[1:5], 1, ROWS),  # cut elsewhere
        (lambda w: w[:, :2], 0, TensorCut((6, 4), 0, ((3, 3),))),  # along the other dimension
        (lambda w: w.flip(1), 0, TensorCut((6, 4))),  # no copy
    ],
)
def test_a_shard_must_be_what_its_cut_says(
    shard: Callable[[Any], Any], rank: int, said: TensorCut
) -> None:
    """By its bits."""
    cut = model()
    whole = WholeModel.read(cut)
    cut[0].weight.data = shard(cut[0].weight.data).clone()
    with pytest.raises(ValueError, match=r"'0\.weight' on tensor-parallel rank"):
        whole.carry_over(cut, cuts_of(cut, said), rank, client=None)


def test_an_optimizer_made_by_hand_follows_replaced_parameters() -> None:
    """DeepSpeed puts the new ones into its groups, and knows nothing of assignments."""
    cut = model()
    optimizer = SWAN(matrix_param_groups(cut))
    old = cut[0].weight
    whole = WholeModel.read(cut)
    cut[0].weight = nn.Parameter(old.data[:2].clone())
    whole.carry_over(cut, cuts_of(cut, ROWS), rank=0, client=optimizer)
    assert old not in optimizer.assignments and old not in optimizer.blocks
    assert optimizer.assignments[cut[0].weight].shape == (6, 4)
    assert optimizer.blocks[cut[0].weight][0].rows == 6


def test_a_frozen_parameter_that_becomes_trainable_is_refused() -> None:
    """AutoTP's embedding is a new one."""
    cut = model()
    cut[0].weight.requires_grad_(False)
    whole = WholeModel.read(cut)
    cut[0].weight = nn.Parameter(cut[0].weight.data[:2].clone())
    with pytest.raises(ValueError, match="was frozen"):
        whole.carry_over(cut, cuts_of(cut, ROWS), rank=0, client=None)


def test_a_model_that_is_cut_already_is_refused() -> None:
    """Of a shard it cannot be told what it was."""
    cut = model()
    cut.ds_autotp_parsed = True
    with pytest.raises(ValueError, match="Build the model anew"):
        WholeModel.read(cut)
