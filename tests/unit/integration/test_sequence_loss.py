"""The log says which loss sequence ranks must return; test_sequence.py trains with each."""

import re
from types import SimpleNamespace

import pytest

from gradopt_ds.integration.parallel.sequence import required_loss


@pytest.mark.parametrize(
    ("cuts_weights", "said"),
    [(False, "adds up .* its own part of the mean"), (True, "averages .* the mean over the whole")],
)
def test_the_loss_depends_on_the_stage(cuts_weights: bool, said: str) -> None:
    engine = SimpleNamespace(
        sequence_parallel_size=2, zero_optimization_partition_weights=lambda: cuts_weights
    )
    assert re.search(f"over 2 ranks: here DeepSpeed {said}", required_loss(engine))
