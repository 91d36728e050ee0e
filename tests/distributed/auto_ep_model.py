"""A mixture that AutoEP replaces: experts stacked in two tensors, as one process has them.

It is described to AutoEP in the JSON, so that it needs no release of transformers.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tests.reference import Array

HIDDEN, INNER, EXPERTS, VOCABULARY = 16, 8, 4, 37
"""Rows of 16 bytes in bfloat16, as the grouped kernel of the CPU wants them."""

DESCRIBED = {
    "moe_layer_pattern": r"blocks\.\d+\.mlp",
    "router_pattern": "gate",
    "top_k": 2,
    "score_func": "softmax",
    "route_norm": False,
}
"""What ``expert_parallel`` says of the model."""


class Experts(nn.Module):
    """Gate and up of every expert in one tensor, down in another, and transformers' flags."""

    has_gate, is_concatenated, is_transposed = True, True, False

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(EXPERTS, 2 * INNER, HIDDEN))
        self.down_proj = nn.Parameter(torch.empty(EXPERTS, HIDDEN, INNER))

    def forward(self, x: Tensor) -> Tensor:
        """All experts' outputs ``[experts, tokens, hidden]``."""
        gate, up = torch.einsum("eih,th->eti", self.gate_up_proj, x).chunk(2, dim=-1)
        return torch.einsum("ehi,eti->eth", self.down_proj, nn.functional.silu(gate) * up)


class Mixture(nn.Module):
    """The two best experts of every token, weighed by the router's softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts = Experts()

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``[samples, length, hidden]``."""
        scores = torch.softmax(self.gate(x.flatten(0, 1)), dim=-1)
        chosen = torch.zeros_like(scores).scatter(1, scores.topk(2, dim=-1).indices, 1.0)
        mixed = torch.einsum("te,eth->th", scores * chosen, self.experts(x.flatten(0, 1)))
        return mixed.view_as(x)


class Block(nn.Module):
    """A dense layer, then the mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(HIDDEN, HIDDEN)
        self.mlp = Mixture()

    def forward(self, x: Tensor) -> Tensor:
        """Residual block."""
        x = torch.tanh(self.dense(x))
        mixed: Tensor = x + self.mlp(x)
        return mixed


class StackedLM(nn.Module):
    """Embedding, one block, untied head; returns the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.blocks = nn.ModuleList([Block()])
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token cross-entropy of ``tokens`` ``[samples, length]``."""
        x = self.embed(tokens[:, :-1])
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.lm_head(x).flatten(0, 1), tokens[:, 1:].flatten())


def build_stacked(seed: int = 0) -> StackedLM:
    """The same weights on every rank and in every case."""
    torch.manual_seed(seed)
    model = StackedLM()
    for param in model.parameters():
        nn.init.normal_(param, std=0.3)
    return model


def gates_and_ups(w: Array) -> list[Array]:
    """Every expert's gate, and every expert's up, is one."""
    return [half for expert in w for half in (expert[:INNER], expert[INNER:])]


MLP = "blocks.0.mlp"
MATRICES = {
    "blocks.0.dense.weight": lambda w: [w],
    f"{MLP}.experts.gate_up_proj": gates_and_ups,
    f"{MLP}.experts.down_proj": list,
}
"""What must get the matrix rule, and the matrices in it, written down by hand."""


def name_in_one_process(name: str) -> str:
    """What AutoEP's names of the router and of shared experts were before it."""
    renamed = (".router.gate.", ".gate."), (".shared_experts", ".shared_expert")
    for new, old in renamed:
        name = name.replace(new, old)
    return name


def as_one_process(parts: list[dict[str, Any]], ep_size: int) -> dict[str, Any]:
    """Put together what the ranks hold; those with the same experts must hold the same bits.

    Args:
        parts: of every rank: name → tensor or array.
        ep_size: ranks over which the experts are spread; neighbours hold different ones.
    """
    for rank, part in enumerate(parts):
        for name, held in part.items():
            first = parts[rank % ep_size if ".experts.w" in name else 0][name]
            assert (held == first).all(), f"{name} differs on rank {rank}"
    holders = [{n: torch.as_tensor(w) for n, w in part.items()} for part in parts[:ep_size]]
    whole = {}
    for name, own in holders[0].items():
        if ".experts.w" not in name:
            whole[name_in_one_process(name)] = own
            continue
        stack, leaf = name.rsplit(".", 1)
        up = {"w1": "w3"}.get(leaf)
        if leaf == "w2":
            whole[f"{stack}.down_proj"] = torch.cat([part[name] for part in holders])
        elif up:
            halves = [torch.cat([p[name], p[f"{stack}.{up}"]], dim=1) for p in holders]
            whole[f"{stack}.gate_up_proj"] = torch.cat(halves)
    return whole
