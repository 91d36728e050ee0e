"""The table of the papers: bf16 weights and optimizer state, nothing else.

Source: SWAN (arXiv 2412.13148) and the papers it compares itself with count 2 bytes a weight and 2
bytes for each number of state, all in bfloat16, without gradients and activations.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from gradopt_ds.memory.estimate import estimate
from gradopt_ds.memory.optimizers import BLOCKS
from gradopt_ds.memory.setup import Setup

SIZES = ("60m", "130m", "350m", "1.3b", "7b")
ROWS: Mapping[str, str] = {
    "Adam": "AdamW",
    "SWAN (Adam on embeddings, head, norms)": "SWAN",
    "PolarGrad (bf16 momentum, Adam on the rest)": "PolarGrad",
}
"""What a row is called → the optimizer it is counted with."""

CONVENTION = Setup(stage=1, precision="pure-bf16")
"""One rank in pure bfloat16; its masters, a copy of the weights, are not in the table."""


def paper_bytes(model: nn.Module, optimizer: Mapping[str, Any]) -> int:
    """Count the bytes by the papers' convention.

    Args:
        model: it may be on the meta device.
        optimizer: the ``"optimizer"`` block of a DeepSpeed JSON.
    """
    estimated = estimate(model, optimizer, CONVENTION)
    return estimated.weights + estimated.state


def table(models: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """Return one row per optimizer, GiB by size of model."""
    return [
        {
            "optimizer": name,
            **{size: paper_bytes(model, BLOCKS[block]) / 2**30 for size, model in models.items()},
        }
        for name, block in ROWS.items()
    ]
