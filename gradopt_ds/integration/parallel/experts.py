"""Experts that are spread over ranks: their place in the model that has all of them.

A rank's parameters do not say it. DeepSpeed's MoE layer counts the experts of every rank from 0;
AutoEP stacks those of a rank in one tensor, under one name on all ranks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from deepspeed.checkpoint.constants import (
    AUTOEP_PARAM_LOCAL_EXPERTS,
    AUTOEP_PARAM_LOGICAL_SHAPE,
    DS_AUTOEP_UC_META,
)
from deepspeed.moe.layer import MoE
from deepspeed.utils import groups
from torch import Tensor, nn

from gradopt_ds.optim.facts import whole_shape


@dataclass(frozen=True)
class Place:
    """What a rank's parameter is in the model that has all experts.

    Attributes:
        name: in that model.
        shape: in that model.
        start: this rank's first element of the flattened parameter.
        counterparts: what the ranks that share the experts have in its stead, its own name among
            them.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    counterparts: tuple[str, ...]


def places(model: nn.Module) -> dict[Tensor, Place]:
    """Return every parameter's place in the model that has all experts."""
    numbered = {param: place for param, place in _numbered(model)}
    return {
        param: numbered.get(param) or _place(param, name)
        for name, param in model.named_parameters()
    }


def is_spread(param: Tensor) -> bool:
    """Tell whether a parameter belongs to experts, of which other ranks may have others."""
    return not getattr(param, "allreduce", True)


def _numbered(model: nn.Module) -> Iterator[tuple[Tensor, Place]]:
    """Yield the parameters of DeepSpeed's MoE layers, whose experts have numbers."""
    for prefix, layer in model.named_modules():
        if not isinstance(layer, MoE):
            continue
        stack = f"{prefix}.deepspeed_moe.experts.deepspeed_experts".lstrip(".")
        rank = groups._get_expert_parallel_rank(layer.expert_group_name)
        for index, expert in enumerate(layer.deepspeed_moe.experts.deepspeed_experts):
            numbers = range(index, layer.num_experts, layer.num_local_experts)
            for leaf, param in expert.named_parameters():
                names = tuple(f"{stack}.{number}.{leaf}" for number in numbers)
                yield param, Place(names[rank], whole_shape(param), 0, names)


def _place(param: Tensor, name: str) -> Place:
    stacked: dict[str, Any] | None = getattr(param, DS_AUTOEP_UC_META, None)
    if stacked is None:
        return Place(name, whole_shape(param), 0, (name,))
    shape = tuple(stacked[AUTOEP_PARAM_LOGICAL_SHAPE])
    first = _first(stacked[AUTOEP_PARAM_LOCAL_EXPERTS], name)
    return Place(name, shape, first * prod(shape[1:]), (name,))


def _first(experts: Sequence[int], name: str) -> int:
    if list(experts) != list(range(experts[0], experts[0] + len(experts))):
        raise RuntimeError(
            f"{name!r} holds the experts {list(experts)}, and only consecutive ones are known: "
            "this DeepSpeed version spreads them in another way"
        )
    return experts[0]
