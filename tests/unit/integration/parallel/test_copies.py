"""Copies get groups of their own where weights are rounded at random."""

import pytest
import torch
from torch import nn

from gradopt_ds.integration.parallel.copies import separate_copies
from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.matrices import Block, MatrixUpdates
from gradopt_ds.optim import SWAN, GradPower, matrix_param_groups


@pytest.mark.parametrize("is_powered", [False, True])
def test_copies_are_separated(is_powered: bool) -> None:
    """Settings are the same, parameters are those of before, and the base has the groups too."""
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 4), nn.LayerNorm(4))
    params = dict(model.named_parameters())
    cuts = {param: TensorCut(tuple(param.shape)) for param in params.values()}
    cuts[params["0.weight"]] = TensorCut((12, 4), 0, ((6, 6),))
    cuts[params["1.bias"]] = TensorCut((8,), 0, ((4, 4),))
    base = SWAN(matrix_param_groups(model), stochastic_rounding=True)
    optimizer = GradPower(base, 1.2) if is_powered else base
    separate_copies(optimizer, cuts)
    groups = [[n for n, p in params.items() if any(p is q for q in g["params"])] for g in
              optimizer.param_groups]  # fmt: skip
    assert groups == [["0.weight"], ["1.bias"], ["1.weight"], ["2.weight", "2.bias"]]
    assert [group["rule"] for group in optimizer.param_groups] == ["matrix", "aux", "matrix", "aux"]
    assert base.param_groups is optimizer.param_groups


def test_nothing_is_separated_without_random_numbers() -> None:
    """One slice less to exchange."""
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False))
    first, second = model.parameters()
    optimizer = SWAN(matrix_param_groups(model))
    separate_copies(optimizer, {first: TensorCut((6, 4)), second: TensorCut((8, 6), 0, ((4, 4),))})
    assert len(optimizer.param_groups) == 1


def test_random_numbers_do_not_depend_on_the_order_of_updates() -> None:
    """A copy that is put together here comes first, and last where it is received."""
    weights = []
    for order in (1, -1):
        slice_ = torch.linspace(1, 2, 64, dtype=torch.bfloat16).requires_grad_()
        group = {"params": [slice_], "rule": "matrix", "blocks": [[Block(0, 8, 8)]]}
        optimizer = SWAN([group], lr=0.001, stochastic_rounding=True)

        def backwards(params, directions, rule, order=order):  # type: ignore[no-untyped-def]
            for part in [slice(0, 24), slice(24, 64)][::order]:
                ones = [torch.ones(part.stop - part.start)]
                yield MatrixUpdates([params[0]], ones, torch.ones(1), [part])

        optimizer.matrix_map = backwards
        slice_.grad = torch.ones(64, dtype=torch.bfloat16)
        optimizer.step()
        weights.append(slice_.detach())
    assert torch.equal(*weights)
