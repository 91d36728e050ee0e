"""Models for tensor parallelism, and what an engine that has cut one holds, put together again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.module_inject import layers
from deepspeed.utils import groups
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.distributed.model import SAMPLES, VOCABULARY
from tests.reference import Array

HIDDEN, INNER, HEADS = 24, 20, 4


class TinyLlama(LlamaForCausalLM):  # type: ignore[misc]
    """Takes tokens ``[samples, length]``; returns the loss.

    Args:
        kv_heads: fewer than four: grouped queries.
        biases: of all linear layers but the head.
        tied: head and embedding are one.
    """

    def __init__(self, kv_heads: int = 2, biases: bool = False, tied: bool = False) -> None:
        super().__init__(
            LlamaConfig(
                vocab_size=VOCABULARY + 1,
                hidden_size=HIDDEN,
                intermediate_size=INNER,
                num_hidden_layers=2,
                num_attention_heads=HEADS,
                num_key_value_heads=kv_heads,
                attention_bias=biases,
                mlp_bias=biases,
                tie_word_embeddings=tied,
                max_position_embeddings=32,
                use_cache=False,
            )
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token cross-entropy."""
        loss: Tensor = super().forward(input_ids=tokens, labels=tokens).loss
        return loss


MATRICES = frozenset(
    f"model.layers.{layer}.{name}_proj.weight"
    for layer in range(2)
    for name in (*(f"self_attn.{n}" for n in "qkvo"), *(f"mlp.{n}" for n in ("gate", "up", "down")))
)
"""What must get the matrix rule, written down by hand."""


def build_llama(seed: int = 0, **settings: Any) -> TinyLlama:
    """The same weights on every rank and in every case."""
    torch.manual_seed(seed)
    model = TinyLlama(**settings)
    for name, param in model.named_parameters():
        torch.nn.init.normal_(param, mean=float("norm" in name), std=0.3)
    return model


def tensor_batch(step: int, micro: int, data_rank: int) -> Tensor:
    """Tokens ``[SAMPLES, 13]`` of one data-parallel rank, and so of all its tensor ranks."""
    generator = torch.Generator().manual_seed(1000 * step + 100 * micro + data_rank)
    return torch.randint(VOCABULARY, (2 * SAMPLES, 13), generator=generator)


@contextmanager
def separate_parallelism() -> Iterator[None]:
    """Leave no trace of tensor parallelism for the engines that come after in these processes."""
    kept = {name: value for name, value in vars(groups).items() if not callable(value)}
    mode = layers.DEEPSPEED_AUTOTP_MODE
    try:
        yield
    finally:
        for name in set(vars(groups)) - set(kept):
            if not callable(getattr(groups, name)):
                delattr(groups, name)
        vars(groups).update(kept)
        layers.DEEPSPEED_AUTOTP_MODE = mode


def data_rank(engine: Any) -> int:
    """This process's number among those with other data."""
    return dist.get_rank(engine.seq_data_parallel_group)


def data_size(engine: Any) -> int:
    """How many ranks have other data."""
    return dist.get_world_size(engine.seq_data_parallel_group)


def joined(engine: Any, shards: dict[str, Array], twin: Any) -> dict[str, Array]:
    """Whole parameters: shards joined where their shape is another; else copies, all equal."""
    group = engine.mpu.get_tensor_model_parallel_group()
    everywhere: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everywhere, shards, group=group)
    wholes = {}
    for name, param in twin.named_parameters():
        parts = [theirs[name] for theirs in everywhere]
        axes = [i for i, size in enumerate(param.shape) if parts[0].shape[i] != size]
        if not axes:
            assert all(np.array_equal(part, parts[0]) for part in parts), f"copies of {name} differ"
        wholes[name] = np.concatenate(parts, axes[0]) if axes else parts[0]
        assert wholes[name].shape == tuple(param.shape), name
    return wholes


def start_tensor(model: Any, settings: dict[str, Any], **arguments: Any) -> Any:
    """An engine."""
    return deepspeed.initialize(model=model, config=settings, **arguments)[0]
