"""Muon's default step has the length of ``torch.optim.Muon``'s default step."""

import pytest
import torch

from gradopt_ds import Muon


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_the_step_of_torch(shape: tuple[int, int]) -> None:
    """torch calls it "original": sqrt(max(1, m/n)). Its five steps multiply in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    steps = []
    for build in (
        lambda p: Muon([{"params": [p], "rule": "matrix"}], lr=0.1),
        lambda p: torch.optim.Muon([p], lr=0.1, weight_decay=0.0),
    ):
        param = torch.nn.Parameter(weight.clone())
        param.grad = gradient.clone()
        build(param).step()
        steps.append(param.detach() - weight)
    ours, torchs = steps
    assert (ours - torchs).norm() <= 0.03 * torchs.norm()
