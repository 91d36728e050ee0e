"""How fast a step is, and on what its time goes: data, optimizer, and the model's operations."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.accelerator import get_accelerator

from gradopt_ds.experiments.common.models import active_parameter_count
from gradopt_ds.experiments.pretrain.metrics import Row
from gradopt_ds.memory.moments import peak_bytes, resident_bytes
from gradopt_ds.optim.facts import whole_shape

PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Part of a GPU's name → operations per second in dense bfloat16, as NVIDIA's data sheets say."""


def step_flops(model: Any, sequence_length: int) -> int:
    """Count the floating-point operations of the model for one token, forward and backward.

    Two for each weight of a product that the token goes through (of experts those that it chooses;
    not the embedding, which is looked up unless it is the output head, too), and 4 · positions ·
    width of the queries for each layer's attention scores and their sum, the causal half not left
    out, as PaLM and Megatron count; three times that with the backward pass. What is computed
    twice under ``--checkpointing`` counts once, and norms, rotations and the optimizer not at all.

    Args:
        model: a transformers causal language model, whole, or partitioned by ZeRO.
        sequence_length: positions.
    """
    config = model.config
    embedding = whole_shape(model.get_input_embeddings().weight)
    looked_up = 0 if config.tie_word_embeddings else embedding[0] * embedding[1]
    vectors = sum(shape[0] for param in model.parameters() if len(shape := whole_shape(param)) == 1)
    weights = active_parameter_count(model) - looked_up - vectors
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    scores = 4 * config.num_hidden_layers * sequence_length * width
    return 3 * (2 * weights + scores)


def peak_flops(device: torch.device) -> float | None:
    """Look up the operations per second of a device; None where it is not in :data:`PEAKS`."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


class Stopwatch:
    """Where the seconds of one rank's steps go.

    Args:
        engine: whose base optimizer is timed, the exchange of matrices included. DeepSpeed calls it
            once per sub-group at stage 3.
        sequence_length: tokens per sequence.
    """

    def __init__(self, engine: DeepSpeedEngine, sequence_length: int) -> None:
        self._engine = engine
        self._tokens = engine.train_batch_size() * sequence_length
        self._flops = self._tokens * step_flops(engine.module, sequence_length)
        self._data = self._optimizer = self._began = 0.0
        engine.basic_optimizer.register_step_pre_hook(self._begin)
        engine.basic_optimizer.register_step_post_hook(self._end)

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time inside of the block as waiting."""
        began = time.perf_counter()
        yield
        self._data += time.perf_counter() - began

    def row(self, seconds: float, ranks: int) -> Row:
        """Make the columns of a step that has ended, and begin the next one.

        Args:
            seconds: that the step took.
            ranks: over which its tokens were divided.
        """
        device = self._engine.device
        peak = peak_flops(device)
        flops = self._flops / seconds
        row = {
            "tokens_per_second": self._tokens / seconds,
            "model_flops_per_second": flops,
            "mfu": None if peak is None else flops / (ranks * peak),
            "data_wait_seconds": self._data,
            "optimizer_seconds": self._optimizer,
            "memory_bytes": torch.cuda.memory_allocated(device)
            if device.type == "cuda"
            else resident_bytes(),
            "peak_memory_bytes": peak_bytes(device),
        }
        self._data = self._optimizer = 0.0
        return row

    def _begin(self, *_: object) -> None:
        self._began = _now()

    def _end(self, *_: object) -> None:
        self._optimizer += _now() - self._began


def learning_rates(engine: DeepSpeedEngine) -> dict[str, float]:
    """Return the rate of every parameter group, by its rule and number; that of the last step."""
    groups = engine.basic_optimizer.param_groups
    return {
        f"{group.get('rule', 'group')}_{number}": float(group["lr"]) * group.get("lr_scale", 1.0)
        for number, group in enumerate(groups)
    }


def _now() -> float:
    get_accelerator().synchronize()  # a GPU has only been told its work
    return time.perf_counter()
