"""A small LLaMA whose sequences are cut over ranks by DeepSpeed's Ulysses attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.sequence_parallel import parallel_state_sp
from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.distributed.model import SAMPLES, VOCABULARY
from tests.distributed.parallel_state import forget_engines

SETTINGS = dict(
    vocab_size=VOCABULARY,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    use_cache=False,
)

MATRICES = frozenset(
    f"model.layers.{i}.{name}_proj.weight"
    for i in range(2)
    for name in (*(f"self_attn.{n}" for n in "qkvo"), *(f"mlp.{n}" for n in ("gate", "up", "down")))
)
"""What must get the matrix rule, written down by hand."""


class WholeLlama(LlamaForCausalLM):
    """One process: takes tokens ``[samples, length]``, returns the loss.

    Its attention is transformers' ``eager``, which Ulysses leaves as it is.
    """

    def __init__(self) -> None:
        super().__init__(LlamaConfig(**SETTINGS, attn_implementation="eager"))

    def forward(self, tokens: Tensor) -> Tensor:
        """Cross-entropy of the next token, over all tokens but the last."""
        logits = super().forward(input_ids=tokens[:, :-1]).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


class CutLlama(LlamaForCausalLM):
    """Sequence-parallel ranks: each takes its own tokens, and all work on those of each.

    As under DeepSpeed's ``UlyssesSPDataLoaderAdapter`` the ranks of a sequence-parallel group share
    their micro-batches, and a rank computes its part of every sequence.

    Args:
        is_gathered: whether every rank returns the mean over all tokens of the group, through a
            differentiable collective as in transformers' Trainer, or else its own part.
    """

    def __init__(self, is_gathered: bool = False) -> None:
        super().__init__(LlamaConfig(**SETTINGS, attn_implementation="sdpa"))
        self.is_gathered = is_gathered

    def forward(self, tokens: Tensor) -> Tensor:
        """The loss of the group's micro-batches, or this rank's part of it."""
        group = parallel_state_sp.get_sequence_parallel_group()
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        batches = [torch.empty_like(tokens) for _ in range(size)]
        dist.all_gather(batches, tokens.contiguous(), group=group)
        loss = torch.stack([self._own_part(batch, rank, size) for batch in batches]).mean()
        if not self.is_gathered:
            return loss
        # Value and gradient of all_gather and sum, whose backward gloo has for all ranks alone.
        whole: Tensor = torch.distributed.nn.functional.all_reduce(loss, group=group)
        return whole

    def _own_part(self, tokens: Tensor, rank: int, size: int) -> Tensor:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        length = inputs.shape[1] // size
        own = slice(rank * length, (rank + 1) * length)
        positions = torch.arange(inputs.shape[1]).expand_as(inputs)[:, own]
        logits = super().forward(input_ids=inputs[:, own], position_ids=positions).logits
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets[:, own].flatten(), reduction="sum"
        )
        return loss / targets.numel()


def build_whole() -> nn.Module:
    """In float64, the same weights on every rank and in every case."""
    torch.manual_seed(0)
    model = WholeLlama()
    for name, param in model.named_parameters():
        nn.init.normal_(param, mean=float("norm" in name), std=0.3)
    return model.double()


@contextmanager
def sequence_parallel(size: int, plain: bool = False) -> Iterator[Any]:
    """Have DeepSpeed's Ulysses take over transformers' ``sdpa``.

    Args:
        size: ranks that share a sequence.
        plain: whether the unit is of the kind of Megatron's, with groups of all names.

    Yields:
        The ``mpu`` for ``deepspeed.initialize``, as Accelerate passes it.
    """
    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
    data_parallel = [
        dist.new_group(range(first, dist.get_world_size(), size)) for first in range(size)
    ]
    try:
        mpu = UlyssesSPAttentionHF.register_with_transformers(
            CutLlama(), "sdpa", sequence_parallel_size=size, micro_batch_size=SAMPLES
        )
        yield plain_unit(data_parallel[dist.get_rank() % size]) if plain else mpu
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
        parallel_state_sp._release_sequence_parallel_groups()
        forget_engines()


def plain_unit(data_parallel: Any) -> SimpleNamespace:
    """A model-parallel unit with sequence parallelism and no model parallelism."""
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    kinds = {
        "data_parallel": data_parallel,
        "model_parallel": alone,
        "sequence_parallel": parallel_state_sp.get_sequence_parallel_group(),
        "sequence_data_parallel": parallel_state_sp.get_sequence_data_parallel_group(),
    }
    unit = SimpleNamespace()
    for kind, group in kinds.items():
        setattr(unit, f"get_{kind}_group", lambda group=group: group)
        setattr(unit, f"get_{kind}_rank", lambda group=group: dist.get_rank(group))
        setattr(unit, f"get_{kind}_world_size", lambda group=group: dist.get_world_size(group))
    return unit
