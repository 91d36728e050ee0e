"""Gradients as training has them: of a model after a few steps on the embedded corpus."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW

from gradopt_ds.experiments.common import command_line, models
from gradopt_ds.experiments.pretrain.data import tokenizer
from gradopt_ds.experiments.pretrain.data.documents import TrainingDocuments
from gradopt_ds.experiments.pretrain.data.packing import PackedSequences
from gradopt_ds.experiments.pretrain.settings import RunSettings
from gradopt_ds.optim import assign_rules
from gradopt_ds.optim.param_groups import MATRIX


def capture(
    settings: RunSettings, batch: int, device: torch.device, progress: Callable[[], object]
) -> dict[str, Tensor]:
    """Train one process with AdamW for ``settings.steps`` steps, without DeepSpeed.

    Args:
        settings: model, data and steps.
        batch: sequences per step.
        device: where to train.
        progress: called after each step.

    Returns:
        The last step's gradient of every matrix in the model's blocks, in float32 on the CPU.
    """
    texts = TrainingDocuments(settings, rank=0, ranks=1)
    words = tokenizer.wrap(
        tokenizer.cached(tokenizer.sample(texts), settings.vocab_size, settings.cache.expanduser())
    )
    encode = tokenizer.Encoder(words)
    shape = models.model_config(
        settings.model, tokenizer.vocabulary(words), settings.sequence_length
    )
    sequences = PackedSequences(
        TrainingDocuments(settings, rank=0, ranks=1),
        encode,
        encode.end,
        settings.sequence_length,
        settings.shuffle_buffer,
        seed=settings.seed,
    )
    model = models.build(shape, settings.seed).to(device)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    for step in range(settings.steps):
        tokens = torch.from_numpy(np.stack([next(sequences) for _ in range(batch)])).long()
        model.zero_grad()
        model(input_ids=tokens.to(device), labels=tokens.to(device)).loss.backward()
        if step < settings.steps - 1:
            optimizer.step()
        progress()
    return {
        one.name if len(one.blocks) == 1 else f"{one.name}[{index}]": (
            param.grad.flatten()[block.where].view(block.rows, block.columns).float().cpu()
        )
        for param, one in assign_rules(model).items()
        if one.rule == MATRIX and param.grad is not None
        for index, block in enumerate(one.blocks)
    }


def settings(model: Path, deepspeed_config: Path, steps: int) -> RunSettings:
    """The embedded corpus in sequences of 128 tokens."""
    told = {"deepspeed_config": deepspeed_config, "model": model, "steps": steps}
    return command_line.build(RunSettings, {**told, "shuffle_buffer": 64})
