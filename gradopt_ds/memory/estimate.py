"""Bytes per rank from shapes alone: no weight, no process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from gradopt_ds.integration.parallel.experts import is_spread
from gradopt_ds.integration.parallel.experts_on_paper import on_one_rank
from gradopt_ds.memory import activations
from gradopt_ds.memory.optimizers import Built, build
from gradopt_ds.memory.setup import Setup
from gradopt_ds.memory.split import Place, Split
from gradopt_ds.memory.workspace import workspace_bytes
from gradopt_ds.memory.zero import Group, stepped_shapes, zero_bytes
from gradopt_ds.optim.facts import read_facts
from gradopt_ds.optim.param_groups import AUX, MATRIX, default_assignments


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
        setup: ZeRO, parallelism, precision and batch.
        rank: whose memory, of all processes (see :meth:`gradopt_ds.memory.split.Split.places`); by
            default the rank's that holds the most.

    Raises:
        ValueError: see :func:`gradopt_ds.memory.optimizers.build`,
            :func:`gradopt_ds.integration.parallel.experts_on_paper.on_one_rank` and
            :meth:`gradopt_ds.memory.split.Split.of`.
    """
    model = on_one_rank(model, setup.expert_parallel)
    built = build(optimizer, model)
    split = Split.of(model, setup)
    estimates = [_at(place, split, model, built) for place in split.places(rank)]
    return max(estimates, key=lambda estimated: estimated.total)


def _at(place: Place, split: Split, model: nn.Module, built: Built) -> Estimate:
    """Estimate for the rank that holds the most of those at a place."""
    setup = split.setup
    shapes = split.shapes(place.stage, place.tensor)
    by_group = _groups(built, shapes, setup)
    groups = [part for parts in by_group for part in parts]
    state = _state(model, built, by_group, shapes, setup)
    all_ranks = [zero_bytes(groups, setup, rank) for rank in place.data]
    held = max(all_ranks, key=lambda size: (size.cast_gradients, size.gradients))
    workspace = workspace_bytes(built, by_group, setup, split.stages[place.stage])
    share = split.share(model, place.stage)
    forward = activations.forward_bytes(model.config, setup, share)
    backward = activations.peak_bytes(model.config, setup, share)
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


def _groups(
    built: Built, shapes: Mapping[Tensor, tuple[int, ...]], setup: Setup
) -> list[list[Group]]:
    """Return what a rank has of each group's parameters, and over how many ranks ZeRO cuts it."""
    parts: list[list[Group]] = []
    for group in built.optimizer.param_groups:
        params = [param for param in group["params"] if param in shapes]
        spread = setup.expert_parallel if params and is_spread(params[0]) else 1
        own = Group(tuple(shapes[param] for param in params), setup.ranks // spread)
        parts.append([own] if params else [])
    return parts


def _state(
    model: nn.Module,
    built: Built,
    by_group: Sequence[Sequence[Group]],
    shapes: Mapping[Tensor, tuple[int, ...]],
    setup: Setup,
) -> tuple[int, int]:
    """Count the state of matrices, and of everything else."""
    stepped = [
        [shape for shapes in stepped_shapes(parts, setup) for shape in shapes] for parts in by_group
    ]
    dtype = setup.dtypes.masters
    whole = built.state_bytes(stepped, dtype)
    rules = [group.get("rule") for group in built.optimizer.param_groups]
    if None in rules:  # one rule for all: the matrices' part is in proportion
        return (matrices := round(whole * _share_of_matrices(model, shapes))), whole - matrices
    others = [[] if rule == MATRIX else own for rule, own in zip(rules, stepped, strict=True)]
    aux = built.state_bytes(others, dtype)
    return whole - aux, aux


def _share_of_matrices(model: nn.Module, shapes: Mapping[Tensor, tuple[int, ...]]) -> float:
    elements = {rule: 0 for rule in (MATRIX, AUX)}
    facts = read_facts(model)
    assignments = default_assignments(facts.values())
    for param, shape in shapes.items():
        if param in facts:  # else it is frozen
            elements[assignments[facts[param].name].rule] += prod(shape)
    return elements[MATRIX] / sum(elements.values())
