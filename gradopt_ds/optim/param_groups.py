"""Which parameters are matrices: decided from the model, overridable by name.

The matrix rules are meant for the linear layers inside a network. Embeddings (a stateless rule
fails on rows that most batches never touch), output heads, norms, biases and the routers of
experts (each row is one expert's, and learns from that expert's tokens alone) belong to the
auxiliary AdamW.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from gradopt_ds.matrices import Block
from gradopt_ds.optim.patterns import listed, matching, splits_by_name
from gradopt_ds.optim.splits import blocks_of, stacked_experts

Rule = Literal["matrix", "aux"]
MATRIX: Rule = "matrix"
AUX: Rule = "aux"

HEAD_NAMES = frozenset(
    {"lm_head", "embed_out", "output", "output_layer", "head", "classifier", "score", "unembed"}
)
"""Last component of the names that output heads go by in the common model libraries."""

EXPERTS = frozenset({"experts", "deepspeed_experts", "deepspeed_moe"})
"""What a module that routes tokens calls its experts."""

ROUTERS = frozenset({"gate", "router", "shared_expert_gate", "coefficient"})
"""What it calls the layers that choose and weigh them."""

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
UNKNOWN_TENSOR = "3 or more dimensions, not a convolution"


@dataclass(frozen=True)
class Assignment:
    """The rule that a parameter gets, why, and which matrices lie in it (none for AdamW)."""

    name: str
    shape: tuple[int, ...]
    rule: Rule
    reason: str
    blocks: tuple[Block, ...] = ()


def whole_shape(param: Tensor) -> tuple[int, ...]:
    """Return the shape of a parameter, also of one that ZeRO stage 3 has cut into chunks.

    ``deepspeed.zero.Init`` leaves an empty placeholder and writes the shape beside it.
    """
    return tuple(getattr(param, "ds_shape", param.shape))


def assign_rules(
    model: nn.Module,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    split: Mapping[str, int | Sequence[int]] | None = None,
) -> dict[Tensor, Assignment]:
    """Decide for every trainable parameter of ``model`` which rule updates it.

    Args:
        model: the model; names, module types and shapes are read.
        include: glob patterns on parameter names (``"*.router.weight"``) that become matrices.
        exclude: glob patterns on parameter names that go to the auxiliary AdamW.
        split: glob pattern on parameter names → how the rows of a matrix, or of every matrix of a
            3-D stack, are divided into matrices: the number of equal parts, or the rows of each.
            Defaults: stacked experts of ``transformers`` as their module says, else one matrix.

    Returns:
        Parameter → assignment, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: a pattern matches nothing; ``include`` and ``exclude``, or two patterns of
            ``split``, match one parameter; an included parameter is not 2-D; a split does not add
            up to the rows or is of a parameter that is no matrix; a parameter has three or more
            dimensions, is no convolution, and neither its module nor ``split`` says which matrices
            lie in it, nor does ``exclude`` name it.
    """
    names: dict[Tensor, str] = {
        param: name for name, param in model.named_parameters() if param.requires_grad
    }
    included = matching(names.values(), include, "include")
    excluded = matching(names.values(), exclude, "exclude")
    if both := sorted(included & excluded):
        raise ValueError(f"both include and exclude match {listed(both)}")
    splits = splits_by_name(list(names.values()), split or {})
    return {
        param: _overridden(assignment, included, excluded, splits.get(assignment.name))
        for param, assignment in default_assignments(model).items()
    }


def matrix_param_groups(
    model: nn.Module,
    params: Iterable[Tensor] | Iterable[Mapping[str, Any]] | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    split: Mapping[str, int | Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """Make the parameter groups for a matrix optimizer: each given group split by rule.

    Args:
        model: the model that the parameters belong to.
        params: parameters or parameter groups to split; all trainable ones by default. A group's
            own settings (``weight_decay``, ``name``, …) go to both of its parts. Its ``lr`` is that
            of its matrices, and what else is in it keeps its ratio to them (``matrix_lr``); of a
            group without matrices it is the auxiliary AdamW's.
        include: see :func:`assign_rules`.
        exclude: see :func:`assign_rules`.
        split: see :func:`assign_rules`.

    Returns:
        Groups with the keys ``"rule"`` (``"matrix"`` or ``"aux"``) and ``"assignments"``
        (parameter → :class:`Assignment`); no group is empty.

    Raises:
        ValueError: see :func:`assign_rules`; or a parameter is not one of the model's.
    """
    assignments = assign_rules(model, include, exclude, split)
    groups: list[dict[str, Any]] = []
    for group in _as_groups(model.parameters() if params is None else params):
        trainable = [param for param in group["params"] if param.requires_grad]
        if unknown := [whole_shape(p) for p in trainable if p not in assignments]:
            raise ValueError(
                f"parameters of shapes {listed(unknown)} are not parameters of "
                f"{type(model).__name__}: their names, and so their rule, cannot be known"
            )
        for rule in (MATRIX, AUX):
            members = [p for p in trainable if assignments[p].rule == rule]
            if not members:
                continue
            part = {**group, "params": members, "rule": rule}
            part["assignments"] = {param: assignments[param] for param in members}
            if rule == AUX and len(members) < len(trainable) and "lr" in part:
                part["matrix_lr"] = part.pop("lr")
            groups.append(part)
    return groups


def _as_groups(
    params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    listed: list[Any] = list(params)
    if listed and isinstance(listed[0], Mapping):
        for group in listed:
            members = group["params"]
            yield {**group, "params": [members] if isinstance(members, Tensor) else list(members)}
    else:
        yield {"params": listed}


def default_assignments(model: nn.Module) -> dict[Tensor, Assignment]:
    """Choose what :func:`assign_rules` starts from; unknown 3-D tensors are auxiliary here."""
    names = {param: name for name, param in model.named_parameters() if param.requires_grad}
    owners: dict[Tensor, list[nn.Module]] = {param: [] for param in names}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            if param in owners:
                owners[param].append(module)
    embeddings = {p for p in names if any(isinstance(m, EMBEDDINGS) for m in owners[p])}
    vocabularies = {whole_shape(p) for p in embeddings}
    # A head stands once; position embeddings can have the shape of every layer's projection.
    in_blocks = Counter(whole_shape(p) for p in names.keys() - embeddings if _in_block(names[p]))
    repeated = {shape for shape, count in in_blocks.items() if count > 1}
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if callable(get_head) else None
    routers = _routers(model)
    assignments: dict[Tensor, Assignment] = {}
    for param, name in names.items():
        shape, leaf = whole_shape(param), name.split(".")[-1]
        experts = stacked_experts(owners[param][0], leaf) if len(shape) == 3 else None
        if experts:
            split, reason = experts
            assignments[param] = Assignment(name, shape, MATRIX, reason, blocks_of(shape, split))
        elif param in routers and len(shape) > 1:
            assignments[param] = Assignment(name, shape, AUX, "router or gate of experts")
        else:
            heads = vocabularies - repeated if _in_block(name) else vocabularies
            rule, reason = _default_rule(param, name, owners[param], heads, head)
            blocks = blocks_of(shape) if rule == MATRIX else ()
            assignments[param] = Assignment(name, shape, rule, reason, blocks)
    return assignments


def _routers(model: nn.Module) -> set[Tensor]:
    """Return the weights of what stands beside experts and chooses among them."""
    return {
        param
        for module in model.modules()
        if EXPERTS.intersection(children := dict(module.named_children()))
        for name in ROUTERS.intersection(children)
        for param in children[name].parameters()
    }


def _default_rule(
    param: Tensor,
    name: str,
    owners: Sequence[nn.Module],
    heads: set[tuple[int, ...]],
    head: nn.Module | None,
) -> tuple[Rule, str]:
    path = name.split(".")[:-1]
    shape = whole_shape(param)
    if len(shape) < 2:
        return AUX, "norm, bias or scalar (fewer than 2 dimensions)"
    if any(isinstance(owner, EMBEDDINGS) for owner in owners):
        tied = any(not isinstance(owner, EMBEDDINGS) for owner in owners)
        return AUX, "embedding tied to the output head" if tied else "embedding"
    if any(isinstance(owner, CONVOLUTIONS) for owner in owners):
        return AUX, "convolution kernel"
    if len(shape) > 2:
        return AUX, UNKNOWN_TENSOR
    if any(owner is head for owner in owners):
        return AUX, "output head (get_output_embeddings)"
    if shape in heads:
        return AUX, "output head (same shape as an embedding)"
    if path and path[-1] in HEAD_NAMES and not _in_block(name):
        return AUX, f"output head (named {path[-1]!r}, outside the blocks)"
    if not any(isinstance(owner, nn.Linear) for owner in owners):
        return AUX, "2-D, but not the weight of a linear layer: name it in `include` if it is one"
    if min(shape) == 1:
        return AUX, "a single row or column: a vector, not a matrix"
    return MATRIX, "weight of a hidden linear layer"


def _in_block(name: str) -> bool:
    return any(part.isdigit() for part in name.split(".")[:-1])


def _overridden(
    assignment: Assignment,
    included: set[str],
    excluded: set[str],
    split: int | Sequence[int] | None,
) -> Assignment:
    name, shape = assignment.name, assignment.shape
    if name in excluded:
        assignment = replace(assignment, rule=AUX, reason="named in exclude", blocks=())
    elif name in included and assignment.reason != UNKNOWN_TENSOR:
        if assignment.rule == AUX and len(shape) != 2:
            raise ValueError(
                f"include names {name!r} of shape {shape}: only 2-D parameters can be matrices"
            )
        blocks = assignment.blocks or blocks_of(shape)
        assignment = replace(assignment, rule=MATRIX, reason="named in include", blocks=blocks)
    if split is not None:
        return _split(assignment, split)
    if assignment.reason == UNKNOWN_TENSOR:
        raise ValueError(
            f"{name!r} has shape {shape}, and its module does not say which matrices lie in it. If "
            "every [i] is one matrix [outputs, inputs], say it in `split` "
            f'({{"{name}": 1}}, or 2 if gate and up follow one another in its rows). Or name it in '
            "`exclude` to have it updated by the auxiliary AdamW."
        )
    return assignment


def _split(assignment: Assignment, split: int | Sequence[int]) -> Assignment:
    if assignment.rule == AUX and assignment.reason != UNKNOWN_TENSOR:
        raise ValueError(
            f"split names {assignment.name!r}, which the auxiliary AdamW updates "
            f"({assignment.reason}): there is no matrix to split"
        )
    try:
        blocks = blocks_of(assignment.shape, split)
    except ValueError as error:
        raise ValueError(f"split of {assignment.name!r}: {error}") from None
    return replace(assignment, rule=MATRIX, reason="named in split", blocks=blocks)
