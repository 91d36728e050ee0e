"""Matrices that a step could not update: refused when the optimizer is made, not later."""

from typing import Any

import pytest
import torch
from torch import nn

from gradopt_ds import SWAN, Muon, PolarGrad, SinkGD, matrix_param_groups
from gradopt_ds.integration.optimizer_json import build_optimizer


class Columns(nn.Module):
    """A linear layer with one input beside one with several."""

    def __init__(self) -> None:
        super().__init__()
        self.single = nn.Linear(1, 6)
        self.several = nn.Linear(6, 4)


@pytest.mark.parametrize("split", [{}, {"single.weight": 2}, {"single.weight": [1, 5]}])
def test_swan_refuses_a_matrix_with_one_column(split: dict[str, Any]) -> None:
    """Rows of one entry have no spread: GradNorm leaves nothing of them."""
    groups = matrix_param_groups(Columns(), include=["single.weight"], split=split)
    with pytest.raises(ValueError, match="SWAN would never move a matrix of .* and 1 column"):
        SWAN(groups)


def test_stacked_columns_are_refused_too() -> None:
    """Every matrix of a stack has that one column."""
    model = nn.Module()
    model.experts = nn.Parameter(torch.ones(3, 4, 1))
    with pytest.raises(ValueError, match="matrix of 4 rows and 1 column"):
        SWAN(matrix_param_groups(model, split={"experts": 1}))


def test_the_json_says_whose_setting_it_is() -> None:
    """Through the registry, from ``include``."""
    with pytest.raises(ValueError, match="SWAN: SWAN would never move.*`exclude`"):
        model = Columns()
        build_optimizer("SWAN", {"include": ["single.weight"]}, model, model.parameters())


@pytest.mark.parametrize("build", [PolarGrad, Muon, SinkGD])
@pytest.mark.parametrize("shape", [(6, 1), (1, 6)])
def test_the_other_rules_move_rows_and_columns(build: Any, shape: tuple[int, int]) -> None:
    """The polar factor of a vector is its direction; SinkGD's limit is its signs."""
    weight = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    gradient = torch.tensor([3.0, -4.0, 0.5, -2.0, 1.0, 6.0], dtype=torch.float64).view(shape)
    weight.grad = gradient.clone()
    more = {"alpha": 1.0} if build is SinkGD else {"oracle": "svd", "momentum": 0.0}
    more |= {"nesterov": False} if build is Muon else {}
    build([{"params": [weight], "rule": "matrix"}], lr=0.5, **more).step()
    expected = {
        PolarGrad: gradient,  # its direction times its nuclear norm
        Muon: gradient / gradient.norm() * max(1.0, shape[0] / shape[1]) ** 0.5,
        SinkGD: gradient.sign(),
    }[build]
    torch.testing.assert_close(weight.detach(), -0.5 * expected, rtol=1e-6, atol=1e-9)


def test_swan_moves_a_single_row() -> None:
    """It has a spread: the direction of the centred row, at the norm of a matrix of ones."""
    weight = nn.Parameter(torch.zeros(1, 4))
    weight.grad = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    SWAN([{"params": [weight], "rule": "matrix"}], lr=1.0, alpha=1.0, oracle="svd").step()
    centred = weight.grad - 3.0
    expected = -centred / centred.norm() * 2.0
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [2, [1, 5]])
def test_parts_of_a_transposed_weight_are_refused(parts: Any) -> None:
    """A step could not write them in place; and how to mend it is said, and works."""
    model = nn.Module()
    model.fused = nn.Parameter(torch.ones(4, 6).mT)
    groups = matrix_param_groups(model, include=["fused"], split={"fused": parts})
    with pytest.raises(ValueError, match=r"\(6, 4\) with 2 matrices .*contiguous"):
        PolarGrad(groups)
    model.fused.data = model.fused.data.contiguous()
    optimizer = PolarGrad(groups)
    model.fused.grad = torch.eye(6)[:, :4]
    optimizer.step()
    assert not torch.equal(model.fused, torch.ones(6, 4))


@pytest.mark.parametrize("build", [PolarGrad, SWAN, SinkGD])
def test_a_transposed_weight_that_is_one_matrix_is_updated(build: Any) -> None:
    """To the bit like the same weight in the usual order."""
    weights = [nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(4, 6).mT)]
    for weight in weights:
        weight.grad = torch.linspace(-1, 2, 24).square().view(6, 4)
        more = {"oracle": "svd"} if build is not SinkGD else {}
        build([{"params": [weight], "rule": "matrix"}], lr=0.1, **more).step()
    assert torch.equal(*weights) and not torch.equal(weights[0], torch.ones(6, 4))


def test_a_refused_group_is_not_added() -> None:
    """The optimizer can still be used without it."""
    optimizer = SWAN([{"params": [nn.Parameter(torch.ones(3, 4))], "rule": "matrix"}])
    with pytest.raises(ValueError, match="1 column"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, 1))], "rule": "matrix"})
    assert len(optimizer.param_groups) == len(optimizer.blocks) == 1


def test_the_direction_of_version_0_2_is_refused() -> None:
    """Nothing calls it: an optimizer's momentum would be left out without an error."""
    with pytest.raises(TypeError, match="write _directions"):
        type("Mine", (SWAN,), {"_direction": lambda self, param, group: param.grad})
