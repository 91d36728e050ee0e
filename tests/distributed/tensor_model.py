"""Models for tensor parallelism, and what an engine that has cut one holds, put together again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.distributed.fused_model import INNER, build_fused
from tests.distributed.model import SAMPLES, VOCABULARY
from tests.distributed.moe_model import MATRICES as MOE_MATRICES
from tests.distributed.moe_model import build_moe, whole
from tests.reference import Array

HIDDEN, WIDE, HEADS = 24, 20, 4


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
                intermediate_size=WIDE,
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


LLAMA_MATRICES = frozenset(
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


def parts_of(*sizes: int) -> Callable[[Array], list[Array]]:
    """The rows of a fused weight are several matrices."""
    bounds = [0, *accumulate(sizes)]
    return lambda w: [w[start:stop] for start, stop in pairwise(bounds)]


def _layers(kind: str, *names: str, **more: Any) -> dict[str, Any]:
    patterns = [rf".*\.{name}\.weight$" for name in names]
    return {"patterns": patterns, "partition_type": kind, **more}


def _only(*specs: dict[str, Any]) -> dict[str, Any]:
    return {"partition_config": {"use_default_specs": False, "layer_specs": list(specs)}}


@dataclass(frozen=True)
class Model:
    """A model, and what is written down of it by hand.

    Attributes:
        build: the same weights on every rank.
        matrices: name → the matrices that must get the rule.
        fused: name → sizes of sub-parameters, of each of which every rank has an equal part.
        tensor_parallel: more of the JSON's block.
        params: more of the optimizer's.
    """

    build: Callable[[], nn.Module]
    matrices: Mapping[str, Callable[[Array], list[Array]]]
    fused: Mapping[str, Sequence[int]] = field(default_factory=dict)
    tensor_parallel: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


BLOCK = "blocks.0"


def _fused(parts: Sequence[int], **more: Any) -> Model:
    return Model(
        lambda: build_fused(parts=parts),
        {
            f"{BLOCK}.qkv.weight": parts_of(*parts),
            f"{BLOCK}.gate_up.weight": parts_of(INNER, INNER),
            **{f"{BLOCK}.{name}.weight": whole for name in ("from_q", "from_kv", "down")},
        },
        fused={f"{BLOCK}.qkv.weight": parts, f"{BLOCK}.gate_up.weight": (INNER, INNER)},
        params={"split": {"*.qkv.weight": list(parts), "*.gate_up.weight": 2}},
        **more,
    )


MODELS: Mapping[str, Model] = {
    "LLaMA": Model(build_llama, dict.fromkeys(LLAMA_MATRICES, whole)),
    "LLaMA tied": Model(lambda: build_llama(tied=True), dict.fromkeys(LLAMA_MATRICES, whole)),
    "LLaMA biases": Model(lambda: build_llama(biases=True), dict.fromkeys(LLAMA_MATRICES, whole)),
    "LLaMA uneven": Model(lambda: build_llama(kv_heads=4), dict.fromkeys(LLAMA_MATRICES, whole)),
    "Qwen2MoE": Model(
        lambda: build_moe(balanced=False),
        MOE_MATRICES,
        tensor_parallel=_only(
            _layers("column", *(f"{n}_proj" for n in "qkv")),
            _layers("column", r"shared_expert\.gate_proj", r"shared_expert\.up_proj"),
            _layers("row", "o_proj", r"shared_expert\.down_proj"),
        ),
    ),
    "fused": _fused(
        (8, 4, 4),
        tensor_parallel=_only(
            _layers("column", "qkv", shape=[[8, 4, 4], -1], partition_dim=0),
            _layers("column", "gate_up", shape=[2, -1], partition_dim=0),
            _layers("row", "from_q", "from_kv", "down"),
        ),
    ),
    "Megatron": _fused((8, 8, 8)),
}


def data_rank(engine: Any) -> int:
    """This process's number among those with other data."""
    return dist.get_rank(engine.seq_data_parallel_group)


def data_size(engine: Any) -> int:
    """How many ranks have other data."""
    return dist.get_world_size(engine.seq_data_parallel_group)


def joined(
    engine: Any, shards: dict[str, Array], twin: nn.Module, model: Model
) -> dict[str, Array]:
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
        sizes = model.fused.get(name, ())
        if sizes:
            split = [parts_of(*(size // len(parts) for size in sizes))(part) for part in parts]
            parts = [sub for subs in zip(*split, strict=True) for sub in subs]
        wholes[name] = np.concatenate(parts, axes[0]) if axes else parts[0]
        assert wholes[name].shape == tuple(param.shape), name
    return wholes
