"""Which parameters are matrices: decided from the model, overridable by name.

The matrix rules are meant for the linear layers inside a network. Embeddings (a stateless rule
fails on rows that most batches never touch), output heads, norms and biases belong to the
auxiliary AdamW.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import Tensor, nn

Rule = Literal["matrix", "aux"]
MATRIX: Rule = "matrix"
AUX: Rule = "aux"

HEAD_NAMES = frozenset(
    {"lm_head", "embed_out", "output", "output_layer", "head", "classifier", "score", "unembed"}
)
"""Last component of the names that output heads go by in the common model libraries."""

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
UNKNOWN_TENSOR = "3 or more dimensions, not a convolution"


@dataclass(frozen=True)
class Assignment:
    """The rule that a parameter gets, and why."""

    name: str
    shape: tuple[int, ...]
    rule: Rule
    reason: str


def whole_shape(param: Tensor) -> tuple[int, ...]:
    """The shape of a parameter, also of one that ZeRO stage 3 has cut into chunks.

    ``deepspeed.zero.Init`` leaves an empty placeholder and writes the shape beside it.
    """
    return tuple(getattr(param, "ds_shape", param.shape))


def assign_rules(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> dict[Tensor, Assignment]:
    """Decide for every trainable parameter of ``model`` which rule updates it.

    Args:
        model: the model; names, module types and shapes are read.
        include: glob patterns on parameter names (``"*.router.weight"``) that become matrices.
        exclude: glob patterns on parameter names that go to the auxiliary AdamW.

    Returns:
        Parameter → assignment, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: a pattern matches nothing, both lists match one parameter, an included
            parameter is not 2-D, or a parameter has three or more dimensions and is neither a
            convolution nor excluded (fused experts, say: the rules would not know its matrices).
    """
    names: dict[Tensor, str] = {
        param: name for name, param in model.named_parameters() if param.requires_grad
    }
    included = _matching(names.values(), include, "include")
    excluded = _matching(names.values(), exclude, "exclude")
    if both := sorted(included & excluded):
        raise ValueError(f"both include and exclude match {_listed(both)}")
    by_default = _default_assignments(model, names)
    return {
        param: _overridden(assignment, included, excluded)
        for param, assignment in by_default.items()
    }


def matrix_param_groups(
    model: nn.Module,
    params: Iterable[Tensor] | Iterable[Mapping[str, Any]] | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Parameter groups for a matrix optimizer: each given group split by rule.

    Args:
        model: the model that the parameters belong to.
        params: parameters or parameter groups to split; all trainable ones by default. A group's
            own settings (``lr``, ``weight_decay``, ``name``, …) go to both of its parts.
        include: see :func:`assign_rules`.
        exclude: see :func:`assign_rules`.

    Returns:
        Groups with the key ``"rule"`` (``"matrix"`` or ``"aux"``); no group is empty.

    Raises:
        ValueError: see :func:`assign_rules`; or a parameter is not one of the model's.
    """
    assignments = assign_rules(model, include, exclude)
    groups: list[dict[str, Any]] = []
    for group in _as_groups(model.parameters() if params is None else params):
        trainable = [param for param in group["params"] if param.requires_grad]
        if strangers := [whole_shape(p) for p in trainable if p not in assignments]:
            raise ValueError(
                f"parameters of shapes {_listed(strangers)} are not parameters of "
                f"{type(model).__name__}: their names, and so their rule, cannot be known"
            )
        for rule in (MATRIX, AUX):
            members = [p for p in trainable if assignments[p].rule == rule]
            if members:
                groups.append({**group, "params": members, "rule": rule})
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


def _default_assignments(model: nn.Module, names: Mapping[Tensor, str]) -> dict[Tensor, Assignment]:
    owners: dict[Tensor, list[nn.Module]] = {param: [] for param in names}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            if param in owners:
                owners[param].append(module)
    vocabularies = {
        whole_shape(p) for p in names if any(isinstance(m, EMBEDDINGS) for m in owners[p])
    }
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if callable(get_head) else None
    return {
        param: Assignment(
            name,
            whole_shape(param),
            *_default_rule(param, name, owners[param], vocabularies, head),
        )
        for param, name in names.items()
    }


def _default_rule(
    param: Tensor,
    name: str,
    owners: Sequence[nn.Module],
    vocabularies: set[tuple[int, ...]],
    head: nn.Module | None,
) -> tuple[Rule, str]:
    path = name.split(".")[:-1]
    shape = whole_shape(param)
    in_block = any(part.isdigit() for part in path)
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
    if shape in vocabularies:
        return AUX, "output head (same shape as an embedding)"
    if path and path[-1] in HEAD_NAMES and not in_block:
        return AUX, f"output head (named {path[-1]!r}, outside the blocks)"
    if not any(isinstance(owner, nn.Linear) for owner in owners):
        return AUX, "2-D, but not the weight of a linear layer: name it in `include` if it is one"
    if min(shape) == 1:
        return AUX, "a single row or column: a vector, not a matrix"
    return MATRIX, "weight of a hidden linear layer"


def _overridden(assignment: Assignment, included: set[str], excluded: set[str]) -> Assignment:
    if assignment.name in excluded:
        return replace(assignment, rule=AUX, reason="named in exclude")
    if assignment.name in included:
        if len(assignment.shape) != 2:
            raise ValueError(
                f"include names {assignment.name!r} of shape {assignment.shape}: "
                "only 2-D parameters can be matrices"
            )
        return replace(assignment, rule=MATRIX, reason="named in include")
    if assignment.reason == UNKNOWN_TENSOR:
        raise ValueError(
            f"{assignment.name!r} has shape {assignment.shape}: matrices stacked in one tensor "
            "(fused experts, for instance) are not supported yet. Name it in `exclude` to have "
            "it updated by the auxiliary AdamW."
        )
    return assignment


def _matching(names: Iterable[str], patterns: Sequence[str], setting: str) -> set[str]:
    available = list(names)
    matched: set[str] = set()
    for pattern in patterns:
        found = {name for name in available if fnmatchcase(name, pattern)}
        if not found:
            raise ValueError(
                f"{setting} pattern {pattern!r} matches no parameter; "
                f"the model has {_listed(available)}"
            )
        matched |= found
    return matched


def _listed(items: Sequence[object], most: int = 12) -> str:
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown}, … ({len(items)} in all)"
