"""Bytes per rank from shapes alone: no weight, no process."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from gradopt_ds.memory import activations
from gradopt_ds.memory.optimizers import Built, build
from gradopt_ds.memory.setup import Setup
from gradopt_ds.memory.workspace import workspace_bytes
from gradopt_ds.memory.zero import Group, stepped_shapes, zero_bytes
from gradopt_ds.optim.facts import read_facts, whole_shape
from gradopt_ds.optim.param_groups import AUX, MATRIX, default_assignments

EXPERTS = ".experts."
"""What is in the name of every parameter that expert parallelism spreads."""

EXPERT_MODULE = re.compile(r"(?P<stack>.*\.experts\.(?:[A-Za-z_]\w*\.)*)(?P<index>\d+)\.")
"""An expert that is a module of its own, as in DeepSpeed's MoE layer."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes on the rank that holds the most.

    Attributes:
        weights: see :class:`gradopt_ds.memory.zero.ZeroBytes`.
        masters: the same.
        state_matrix: optimizer state of matrices.
        state_aux: of everything else.
        gradients: at the end of the backward pass.
        step_gradients: while the optimizer steps, at most.
        buffers: of ZeRO, held throughout.
        communication: ZeRO's buckets in the backward pass, and what stage 3 gathers for it.
        workspace: of exchange, rule and AdamW's step, at most.
        activations: at the end of the forward pass, with the loss.
        total: the most of all of it at a time.
        peak: when that is: ``"backward"`` or ``"step"``.
        host: bytes of these that offloading moves to the host's memory.
    """

    weights: int
    masters: int
    state_matrix: int
    state_aux: int
    gradients: int
    step_gradients: int
    buffers: int
    communication: int
    workspace: int
    activations: int
    total: int
    peak: str
    host: int

    @property
    def state(self) -> int:
        """All of the optimizer's state."""
        return self.state_matrix + self.state_aux

    @property
    def accelerator(self) -> int:
        """The total less what is in the host's memory."""
        return self.total - self.host


def estimate(
    model: nn.Module, optimizer: Mapping[str, Any], setup: Setup, rank: int | None = None
) -> Estimate:
    """Estimate the memory of training ``model``.

    Args:
        model: it may be on the meta device; its ``config`` is transformers'.
        optimizer: the ``"optimizer"`` block of a DeepSpeed JSON.
        setup: ZeRO, precision and batch.
        rank: whose memory; by default the rank's that holds the most.

    Raises:
        ValueError: see :func:`gradopt_ds.memory.optimizers.build`.
    """
    built = build(optimizer, model)
    by_group = _groups(model, built, setup)
    groups = [part for parts in by_group for part in parts]
    state = _state(model, built, by_group, setup)
    ranks = range(setup.ranks) if rank is None else [rank]
    all_ranks = [zero_bytes(groups, setup, rank) for rank in ranks]
    held = max(all_ranks, key=lambda size: (size.cast_gradients, size.gradients))
    workspace = workspace_bytes(built, by_group, setup)
    forward = activations.forward_bytes(model.config, setup)
    backward = activations.peak_bytes(model.config, setup)
    resident = held.weights + held.masters + sum(state) + held.buckets
    moments = {
        "backward": resident + held.gradients + held.backward_buckets + backward,
        "step": resident + max(held.cast_gradients, held.step_gradients + workspace),
    }
    peak = max(moments, key=lambda moment: moments[moment])
    host = 0
    if setup.offload_optimizer:
        host += held.masters + sum(state) + held.gradients
    if setup.offload_param:
        host += _part_bytes(groups, setup)
    return Estimate(
        weights=held.weights,
        masters=held.masters,
        state_matrix=state[0],
        state_aux=state[1],
        gradients=held.gradients,
        step_gradients=held.step_gradients,
        buffers=held.buckets,
        communication=held.backward_buckets,
        workspace=workspace,
        activations=forward,
        total=moments[peak],
        peak=peak,
        host=host,
    )


def _part_bytes(groups: Sequence[Group], setup: Setup) -> int:
    shapes = [shape for group in stepped_shapes(groups, setup) for shape in group]
    return sum(prod(shape) for shape in shapes) * setup.dtypes.weights.itemsize


def _groups(model: nn.Module, built: Built, setup: Setup) -> list[list[Group]]:
    """Return each group's parameters; experts apart where they are spread over ranks."""
    names = {param: name for name, param in model.named_parameters()}
    spread = setup.expert_parallel
    modules = _expert_modules(names.values())
    groups = []
    for group in built.optimizer.param_groups:
        dense, experts = [], []
        for param in group["params"]:
            name, shape = names[param], whole_shape(param)
            if spread == 1 or EXPERTS not in name:
                dense.append(shape)
            elif module := EXPERT_MODULE.match(name):
                if int(module["index"]) < _divided(modules[module["stack"]], spread, name):
                    experts.append(shape)
            else:
                experts.append(_share(name, shape, spread))
        parts = [Group(tuple(dense), setup.ranks), Group(tuple(experts), setup.ranks // spread)]
        groups.append([part for part in parts if part.shapes])
    if spread > 1 and not any(len(parts) > 1 for parts in groups):
        raise ValueError(f"expert_parallel {spread}, but no parameter's name has {EXPERTS!r} in it")
    return groups


def _expert_modules(names: Iterable[str]) -> dict[str, int]:
    """Count the experts of every list of experts that are modules of their own."""
    matches = [match for name in names if (match := EXPERT_MODULE.match(name))]
    return {
        stack: 1 + max(int(match["index"]) for match in matches if match["stack"] == stack)
        for stack in {match["stack"] for match in matches}
    }


def _share(name: str, shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:
    if len(shape) != 3:
        raise ValueError(
            f"expert_parallel {ranks} cannot spread {name!r} of shape {shape}: experts are the "
            "first of three dimensions, or modules with a number in their names"
        )
    return (_divided(shape[0], ranks, name), *shape[1:])


def _divided(experts: int, ranks: int, name: str) -> int:
    if experts % ranks:
        raise ValueError(
            f"expert_parallel {ranks} does not divide the {experts} experts of {name!r}"
        )
    return experts // ranks


def _state(
    model: nn.Module, built: Built, by_group: Sequence[Sequence[Group]], setup: Setup
) -> tuple[int, int]:
    """Count the state of matrices, and of everything else."""
    stepped = [
        [shape for shapes in stepped_shapes(parts, setup) for shape in shapes] for parts in by_group
    ]
    dtype = setup.dtypes.masters
    whole = built.state_bytes(stepped, dtype)
    rules = [group.get("rule") for group in built.optimizer.param_groups]
    if None in rules:  # one rule for all: the matrices' part is in proportion
        return (matrices := round(whole * _share_of_matrices(model))), whole - matrices
    others = [[] if rule == MATRIX else own for rule, own in zip(rules, stepped, strict=True)]
    aux = built.state_bytes(others, dtype)
    return whole - aux, aux


def _share_of_matrices(model: nn.Module) -> float:
    elements = {rule: 0 for rule in (MATRIX, AUX)}
    for assignment in default_assignments(read_facts(model).values()).values():
        elements[assignment.rule] += prod(assignment.shape)
    return elements[MATRIX] / sum(elements.values())
