"""A Qwen2MoE whose experts are cut inside an expert, and inside a row, by 2 and by 3 ranks."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from tests.reference import Array

HIDDEN, INNER, EXPERTS, VOCABULARY = 16, 8, 5, 37
"""Rows of 32 bytes in bfloat16: the grouped expert kernel of the CPU wants multiples of 16."""

CONFIG = Qwen2MoeConfig(
    vocab_size=VOCABULARY,
    hidden_size=HIDDEN,
    intermediate_size=24,
    moe_intermediate_size=INNER,
    shared_expert_intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts=EXPERTS,
    num_experts_per_tok=2,
    max_position_embeddings=32,
    output_router_logits=True,
    router_aux_loss_coef=0.01,
    use_cache=False,
)


class TinyMoe(Qwen2MoeForCausalLM):
    """Takes tokens ``[samples, length]``; returns the loss, the router's included.

    Args:
        balanced: whether the load-balancing loss is part of it. It is no sum over samples, so it
            depends on how they are dealt out to ranks.
        experts: their number.
    """

    def __init__(self, balanced: bool = True, experts: int = EXPERTS) -> None:
        config = copy.deepcopy(CONFIG)
        config.num_experts = experts
        super().__init__(config)
        self.config.output_router_logits = balanced

    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token cross-entropy and the load-balancing loss."""
        loss: Tensor = super().forward(input_ids=tokens, labels=tokens).loss
        return loss


def whole(w: Array) -> list[Array]:
    """A linear layer's weight is one matrix."""
    return [w]


def experts(w: Array) -> list[Array]:
    """Every expert is one."""
    return list(w)


def gates_and_ups(w: Array) -> list[Array]:
    """Every expert's gate, and every expert's up, is one."""
    return [half for expert in w for half in (expert[:INNER], expert[INNER:])]


def heads(w: Array) -> list[Array]:
    """Four rows are one head's."""
    return [w[first : first + 4] for first in range(0, len(w), 4)]


LAYER = "model.layers.0"
MATRICES: dict[str, Callable[[Array], list[Array]]] = {
    **{f"{LAYER}.self_attn.{name}_proj.weight": whole for name in "qkvo"},
    **{f"{LAYER}.mlp.shared_expert.{name}_proj.weight": whole for name in ("gate", "up", "down")},
    f"{LAYER}.mlp.experts.gate_up_proj": gates_and_ups,
    f"{LAYER}.mlp.experts.down_proj": experts,
}
"""What must get the matrix rule, and the matrices in it, written down by hand."""

HEADS_SPLIT = {"*.q_proj.weight": 4, "*.k_proj.weight": [4, 4]}
"""By number and by sizes: four query heads, two key heads."""

MATRICES_WITH_HEADS = {
    **MATRICES,
    f"{LAYER}.self_attn.q_proj.weight": heads,
    f"{LAYER}.self_attn.k_proj.weight": heads,
}


def build_moe(seed: int = 0, balanced: bool = True) -> TinyMoe:
    """The same weights on every rank and in every case."""
    torch.manual_seed(seed)
    model = TinyMoe(balanced)
    for name, param in model.named_parameters():
        torch.nn.init.normal_(param, mean=float("norm" in name), std=0.3)
    return model


def build_even_moe() -> TinyMoe:
    """Four experts, which two ranks can share."""
    torch.manual_seed(0)
    model = TinyMoe(experts=4)
    for name, param in model.named_parameters():
        torch.nn.init.normal_(param, mean=float("norm" in name), std=0.3)
    return model
