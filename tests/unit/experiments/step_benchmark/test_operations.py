"""What a piece of work launches."""

import torch

from gradopt_ds.experiments.step_benchmark.operations import operations


def test_views_launch_nothing() -> None:
    x = torch.ones(4, 4)

    def work() -> None:
        (x.mT[1:] * 2).add_(1)

    assert operations(work, x.device) == 2
