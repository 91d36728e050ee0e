"""Gradients as training has them: of a model after a few steps on the embedded corpus."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW

from gradopt_ds.experiments.common import command_line, models
from gradopt_ds.experiments.pretrain.data.open import open_data
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
    data = open_data(settings, rank=0, ranks=1)
    shape = models.model_config(settings.model, data.vocabulary, settings.sequence_length)
    model = models.build(shape, settings.seed).to(device)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    for step in range(settings.steps):
        tokens = torch.from_numpy(np.stack([next(data.training) for _ in range(batch)])).long()
        model.zero_grad()
        model(input_ids=tokens.to(device), labels=tokens.to(device)).loss.backward()
        if step < settings.steps - 1:
            optimizer.step()
        progress()
    gradients: dict[str, Tensor] = {}
    for param, assignment in assign_rules(model).items():
        if assignment.rule == MATRIX and param.grad is not None:
            flat = param.grad.flatten()
            own = [matrix for block in assignment.blocks for matrix in block.matrices(flat)]
            for index, matrix in enumerate(own):
                name = assignment.name if len(own) == 1 else f"{assignment.name}[{index}]"
                gradients[name] = matrix.float().cpu()
    return gradients


def settings(model: Path, deepspeed_config: Path, steps: int) -> RunSettings:
    """Make settings for the embedded corpus in sequences of 128 tokens."""
    values = {"deepspeed_config": deepspeed_config, "model": model, "steps": steps}
    return command_line.build(RunSettings, {**values, "shuffle_buffer": 64})
