"""A language model with fused weights, whole and as Megatron cuts it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from tests.distributed.model import VOCABULARY

HIDDEN, INNER = 12, 10
TOKENS = VOCABULARY + 1
"""An even number, so that two ranks can share the embedding."""


class FusedBlock(nn.Module):
    """Queries, keys and values in one weight, gate and up in another; every part is elementwise.

    Args:
        parts: rows of queries, keys and values; there are as many keys as values.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        super().__init__()
        self.parts = parts
        self.norm = nn.LayerNorm(HIDDEN)
        self.qkv: nn.Module = nn.Linear(HIDDEN, sum(parts), bias=False)
        self.from_q: nn.Module = nn.Linear(parts[0], HIDDEN, bias=False)
        self.from_kv: nn.Module = nn.Linear(parts[1], HIDDEN, bias=False)
        self.gate_up: nn.Module = nn.Linear(HIDDEN, 2 * INNER, bias=False)
        self.down: nn.Module = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Works on the parts of a rank as on all."""
        fused = self.qkv(self.norm(x))
        q, k, v = fused.split([n * fused.shape[-1] // sum(self.parts) for n in self.parts], -1)
        x = x + self.from_q(torch.tanh(q)) + self.from_kv(torch.tanh(k) * v)
        gate, up = self.gate_up(x).chunk(2, -1)
        return x + self.down(torch.tanh(gate) * up)


class FusedLM(nn.Module):
    """Embedding, a block, untied head; returns the loss."""

    def __init__(self, parts: Sequence[int] = (8, 4, 4)) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Embedding(TOKENS, HIDDEN)
        self.blocks = nn.ModuleList([FusedBlock(parts)])
        self.final = nn.LayerNorm(HIDDEN)
        self.lm_head = nn.Linear(HIDDEN, TOKENS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token cross-entropy of ``tokens`` ``[samples, length]``."""
        x = self.embed(tokens[:, :-1])
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.final(x)).float()
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def build_fused(seed: int = 0, parts: Sequence[int] = (8, 4, 4)) -> FusedLM:
    """The same weights on every rank and in every case."""
    torch.manual_seed(seed)
    model = FusedLM(parts)
    for name, param in model.named_parameters():
        nn.init.normal_(param, mean=float("norm.weight" in name or "final.weight" in name), std=0.3)
    return model


class Mpu:
    """A model-parallel unit as Megatron has it: neighbours share a model."""

    def __init__(self, tensor: int) -> None:
        rank, world = dist.get_rank(), dist.get_world_size()
        rows = [list(range(first, first + tensor)) for first in range(0, world, tensor)]
        columns = [list(range(first, world, tensor)) for first in range(tensor)]
        self.groups = {}
        for kind, lists in (("tensor_model", rows), ("data", columns)):
            for ranks in lists:
                group = dist.new_group(ranks)
                if rank in ranks:
                    self.groups[kind] = group
        self.groups["model"] = self.groups["tensor_model"]

    def __getattr__(self, name: str) -> Any:
        """Answer ``get_tensor_model_parallel_rank`` and all that are called like it."""
        for kind in ("tensor_model", "model", "data"):
            for what, value in (
                ("group", lambda group: group),
                ("rank", dist.get_rank),
                ("world_size", dist.get_world_size),
            ):
                if name == f"get_{kind}_parallel_{what}":
                    return lambda kind=kind, value=value: value(self.groups[kind])
        raise AttributeError(name)


class _Reduce(torch.autograd.Function):
    """Sum over the ranks on the way there, or on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any, on_way_back: bool) -> Tensor:
        ctx.group, ctx.on_way_back = group, on_way_back
        return x if on_way_back else _summed(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _summed(gradient, ctx.group) if ctx.on_way_back else gradient, None, None


def _summed(x: Tensor, group: Any) -> Tensor:
    total = x.contiguous().clone()
    dist.all_reduce(total, group=group)
    return total


class _Parallel(nn.Module):
    def __init__(self, whole: nn.Module, mpu: Mpu, axis: int, stride: int = 1) -> None:
        super().__init__()
        self.group = mpu.groups["tensor_model"]
        rank, ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        parts = whole.weight.detach().chunk(ranks * stride, axis)
        assert len({part.shape for part in parts}) == 1
        self.weight = nn.Parameter(torch.cat(parts[rank::ranks], axis).clone())
        marks = {"tensor_model_parallel": True, "partition_dim": axis, "partition_stride": stride}
        vars(self.weight).update(marks)


class ColumnParallelLinear(_Parallel):
    """Every rank has some outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(_Reduce.apply(x, self.group, True), self.weight)


class RowParallelLinear(_Parallel):
    """Every rank has some inputs."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Reduce.apply(F.linear(x, self.weight), self.group, False)
        return out


class VocabParallelEmbedding(_Parallel):
    """Every rank has some tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        local = tokens - dist.get_rank(self.group) * len(self.weight)
        is_here = (local >= 0) & (local < len(self.weight))
        found = F.embedding(local.where(is_here, 0), self.weight) * is_here[..., None]
        out: Tensor = _Reduce.apply(found, self.group, False)
        return out


def cut_as_megatron(model: FusedLM, mpu: Mpu) -> FusedLM:
    """Replace what Megatron cuts, fused weights in strides."""
    model.embed = VocabParallelEmbedding(model.embed, mpu, 0)
    for block in model.blocks:
        block.qkv = ColumnParallelLinear(block.qkv, mpu, 0, stride=3)
        block.gate_up = ColumnParallelLinear(block.gate_up, mpu, 0, stride=2)
        for name in ("from_q", "from_kv", "down"):
            setattr(block, name, RowParallelLinear(getattr(block, name), mpu, 1))
    return model
