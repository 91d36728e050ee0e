"""The largest LLaMA that fits a card, of a family interpolated between the known sizes."""

import json
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from gradopt_ds.experiments.common import models
from gradopt_ds.memory.estimate import estimate
from gradopt_ds.memory.setup import Setup

DEPTHS = {512: 8, 768: 12, 1024: 24, 2560: 24, 4096: 32, 5120: 40, 6656: 60, 8192: 80, 16384: 126}
"""Hidden size → layers: configs/models, LLaMA 13B, 33B, 65B (arXiv 2302.13971), Llama 3 405B."""

STEP = 128
"""Hidden sizes are multiples of a head of this size."""


def shape(hidden: int) -> PretrainedConfig:
    """Make the LLaMA of this hidden size; its depth lies between neighbours in :data:`DEPTHS`."""
    known = sorted(DEPTHS)
    right = min(max(1, bisect_right(known, hidden)), len(known) - 1)
    low, high = known[right - 1], known[right]
    layers = DEPTHS[low] + (DEPTHS[high] - DEPTHS[low]) * (hidden - low) / (high - low)
    return AutoConfig.for_model(
        "llama",
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=16 * -(-8 * hidden // 48),
        num_hidden_layers=round(layers),
        num_attention_heads=hidden // STEP,
        num_key_value_heads=hidden // STEP,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )


def write_shape(hidden: int, path: Path) -> Path:
    """Write the LLaMA of this hidden size as a model's JSON, to be measured or trained.

    Args:
        hidden: size.
        path: of the file; its directory is made if it is missing.
    """
    config = shape(hidden)
    values = {"model_type": config.model_type, **config.to_diff_dict()}
    known = ("transformers_version", "architectures")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: value for key, value in values.items() if key not in known}, indent=2)
    path.write_text(text + "\n")
    return path


def largest(optimizer: Mapping[str, Any], setup: Setup, card: int) -> dict[str, int] | None:
    """Find the widest of the family whose peak fits.

    Args:
        optimizer: the ``"optimizer"`` block of a DeepSpeed JSON.
        setup: ZeRO, precision and batch.
        card: bytes of the accelerator.

    Returns:
        ``parameters``, ``hidden_size``, ``layers`` and ``bytes``; None if not even the narrowest
        fits.
    """
    widths = range(min(DEPTHS), max(DEPTHS) + 1, STEP)
    low, high, best = 0, len(widths), None
    while low < high:
        middle = (low + high) // 2
        config = shape(widths[middle])
        model = models.on_meta(config)
        # Of a pipeline stage it is not known beforehand which one needs most.
        needed = estimate(model, optimizer, setup, 0 if setup.pipeline == 1 else None).accelerator
        if needed <= card:
            low = middle + 1
            best = {
                "parameters": sum(param.numel() for param in model.parameters()),
                "hidden_size": config.hidden_size,
                "layers": config.num_hidden_layers,
                "bytes": needed,
            }
        else:
            high = middle
    return best
