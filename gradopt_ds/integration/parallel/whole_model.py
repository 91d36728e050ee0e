"""The model before AutoTP cuts it: the facts that rules depend on, and what proves a cut.

AutoTP replaces ``nn.Linear`` by layers of its own, and weights by shards. Which rule a parameter
gets, and which matrices lie in it, must be what the whole model says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.optim import MatrixOptimizer, base_of
from gradopt_ds.optim.facts import ParameterFacts, read_facts, remember_facts

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element → integers of that size: their sums do not depend on the order."""


@dataclass(frozen=True)
class WholeModel:
    """What is remembered of a model while AutoTP cuts it.

    Attributes:
        params: name → parameter, which may be replaced.
        facts: name → facts about the parameter; trainable ones alone.
        sums: name → for each dimension, the sums of the bits over the others; nothing for tensors
            of more than two dimensions, which are never cut.
    """

    params: Mapping[str, Tensor]
    facts: Mapping[str, ParameterFacts]
    sums: Mapping[str, tuple[Tensor, ...]]

    @classmethod
    def read(cls, model: nn.Module) -> "WholeModel":
        """Look at a model.

        Raises:
            ValueError: its layers have been replaced before, for an optimizer that is not this
                library's.
        """
        facts = read_facts(model)
        if getattr(model, "ds_autotp_parsed", False):
            raise ValueError(
                "AutoTP has cut this model before, for another engine: what it was as a whole is "
                "not known any more. Build the model anew for every deepspeed.initialize"
            )
        params = dict(model.named_parameters())
        return cls(
            params,
            {known.name: known for known in facts.values()},
            {name: _sums(param) for name, param in params.items()},
        )

    def carry_over(
        self, model: nn.Module, cuts: Mapping[Tensor, TensorCut], rank: int, client: Any
    ) -> None:
        """Check the cuts, and write on every parameter what it is in the whole model.

        Args:
            model: cut.
            cuts: how, by its own account.
            rank: the tensor-parallel one.
            client: the user's optimizer or None; one of this library's knows replaced parameters.

        Raises:
            ValueError: a shard is not what its cut says; a parameter was frozen, or did not exist.
        """
        for name, param in model.named_parameters():
            if name not in self.params:
                raise ValueError(f"AutoTP has made a parameter that was not there: {name!r}")
            self._check(name, param, cuts[param], rank)
            if param.requires_grad and name not in self.facts:
                raise ValueError(
                    f"{name!r} was frozen, and AutoTP has replaced it by a trainable parameter: "
                    "freeze it after deepspeed.initialize instead, or exempt it in "
                    '"tensor_parallel": {"partition_config": …} of the JSON'
                )
            # DeepSpeed's gradient norm asks for this mark, and AutoTP leaves some without it.
            param.tensor_model_parallel = cuts[param].axis is not None  # type: ignore[attr-defined]
            if name in self.facts:
                remember_facts(param, self.facts[name])
                _follow(client, self.params[name], param)

    def _check(self, name: str, param: Tensor, cut: TensorCut, rank: int) -> None:
        """Compare a shard with the part of the whole that its cut says it is."""
        for axis, (before, now) in enumerate(zip(self.sums[name], _sums(param), strict=True)):
            if axis == cut.axis:
                before = torch.cat([before[r.start : r.stop] for r in cut.held(rank)])
            elif cut.axis is not None:
                continue
            if not torch.equal(before.to(now.device), now):
                raise ValueError(
                    f"{name!r} on tensor-parallel rank {rank} is not the part of the parameter "
                    f"that AutoTP's metadata says it is ({cut}): training would update it "
                    "as another matrix. Please report it with your model and DeepSpeed config"
                )


def _sums(param: Tensor) -> tuple[Tensor, ...]:
    if param.dim() not in (1, 2) or param.is_meta:
        return ()
    bits = param.detach().view(BITS[param.element_size()])
    if bits.dim() == 1:
        return (bits.long(),)
    return bits.sum(1, dtype=torch.int64), bits.sum(0, dtype=torch.int64)


def _follow(client: Any, old: Tensor, new: Tensor) -> None:
    """Let an optimizer that was made by hand find its assignment under a replaced parameter."""
    base = base_of(client) if isinstance(client, Optimizer) else None
    if isinstance(base, MatrixOptimizer) and old is not new:
        if old in base.assignments:
            base.assignments[new] = base.assignments.pop(old)
        if old in base.blocks:
            base.blocks[new] = base.blocks.pop(old)
