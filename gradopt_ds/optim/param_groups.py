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
from gradopt_ds.optim.facts import HEAD_NAMES, ParameterFacts, read_facts, whole_shape
from gradopt_ds.optim.patterns import listed, matching, splits_by_name
from gradopt_ds.optim.splits import Split, blocks_of

Rule = Literal["matrix", "aux"]
MATRIX: Rule = "matrix"
AUX: Rule = "aux"

UNKNOWN_TENSOR = "3 or more dimensions, not a convolution"
UNKNOWN_FUSED = "named like a weight with several matrices, and it is not known which"
UNKNOWN = (UNKNOWN_TENSOR, UNKNOWN_FUSED)


@dataclass(frozen=True)
class Assignment:
    """The rule that a parameter gets, why, and which matrices lie in it (none for AdamW)."""

    name: str
    shape: tuple[int, ...]
    rule: Rule
    reason: str
    blocks: tuple[Block, ...] = ()


def assign_rules(
    model: nn.Module,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    split: Mapping[str, Split] | None = None,
    elsewhere: Sequence[ParameterFacts] = (),
) -> dict[Tensor, Assignment]:
    """Decide for every trainable parameter of ``model`` which rule updates it.

    Args:
        model: the model; names, module types and shapes are read.
        include: glob patterns on parameter names (``"*.router.weight"``) that become matrices.
        exclude: glob patterns on parameter names that go to the auxiliary AdamW.
        split: glob pattern on parameter names → how the rows of a matrix, or of every matrix of a
            3-D stack, are divided into matrices: the number of equal parts, the rows of each, or
            ``"heads"``. A weight that is known to be stored transposed is divided by columns.
            Defaults: fused weights and stacked experts as their module says, else one matrix.
        elsewhere: facts of the model's parameters that other processes hold (pipeline stages). A
            parameter's rule depends on all of them, and patterns may mean any. Of a parameter that
            is here too they take the place of those read from ``model``.

    Returns:
        Parameter → assignment, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: a pattern matches nothing; ``include`` and ``exclude``, or two patterns of
            ``split``, match one parameter; an included parameter is not 2-D; a split does not add
            up to the rows or is of a parameter that is no matrix; a parameter has three or more
            dimensions, is no convolution, and neither its module nor ``split`` says which matrices
            lie in it, nor does ``exclude`` name it; or its name says that there are several.
    """
    facts = read_facts(model)
    known = {fact.name: fact for fact in (*facts.values(), *elsewhere)}
    included = matching(known, include, "include")
    excluded = matching(known, exclude, "exclude")
    if both := sorted(included & excluded):
        raise ValueError(f"both include and exclude match {listed(both)}")
    splits = splits_by_name(list(known), split or {})
    # Of the whole model, so that a mistake in any part of it is found by every process.
    assignments = {
        name: _overridden(known[name], assignment, included, excluded, splits.get(name))
        for name, assignment in default_assignments(known.values()).items()
    }
    return {param: assignments[fact.name] for param, fact in facts.items()}


def matrix_param_groups(
    model: nn.Module,
    params: Iterable[Tensor] | Iterable[Mapping[str, Any]] | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    split: Mapping[str, Split] | None = None,
    elsewhere: Sequence[ParameterFacts] = (),
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
        elsewhere: see :func:`assign_rules`.

    Returns:
        Groups with the keys ``"rule"`` (``"matrix"`` or ``"aux"``) and ``"assignments"``
        (parameter → :class:`Assignment`); no group is empty.

    Raises:
        ValueError: see :func:`assign_rules`; or a parameter is not one of the model's.
    """
    assignments = assign_rules(model, include, exclude, split, elsewhere)
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


def default_assignments(facts: Iterable[ParameterFacts]) -> dict[str, Assignment]:
    """Choose what :func:`assign_rules` starts from; unknown 3-D tensors are auxiliary here.

    Args:
        facts: of all the trainable parameters of the model, in whatever process they are.

    Returns:
        Name → assignment.
    """
    facts = list(facts)
    vocabularies = {fact.shape for fact in facts if "embedding" in fact.owners}
    # A head stands once; position embeddings can have the shape of every layer's projection.
    in_blocks = Counter(
        fact.shape for fact in facts if fact.in_block and "embedding" not in fact.owners
    )
    repeated = {shape for shape, count in in_blocks.items() if count > 1}
    says_head = any("head" in fact.owners for fact in facts)

    def heads(fact: ParameterFacts) -> set[tuple[int, ...]]:
        """Return the shapes by which the parameter would be known as an output head."""
        if not fact.in_block:
            return vocabularies
        return set() if says_head or not fact.may_be_head else vocabularies - repeated

    return {fact.name: _default_assignment(fact, heads(fact)) for fact in facts}


def _default_assignment(fact: ParameterFacts, heads: set[tuple[int, ...]]) -> Assignment:
    name, shape = fact.name, fact.shape
    if fact.inside:
        return Assignment(name, shape, MATRIX, fact.inside.reason, fact.inside.blocks(shape))
    if fact.unclear:
        return Assignment(name, shape, AUX, UNKNOWN_FUSED)
    if "router" in fact.owners and len(shape) > 1:
        return Assignment(name, shape, AUX, "router or gate of experts")
    rule, reason = _default_rule(fact, heads)
    return Assignment(name, shape, rule, reason, blocks_of(shape) if rule == MATRIX else ())


def _default_rule(fact: ParameterFacts, heads: set[tuple[int, ...]]) -> tuple[Rule, str]:
    path = fact.name.split(".")[:-1]
    shape = fact.shape
    if len(shape) < 2:
        return AUX, "norm, bias or scalar (fewer than 2 dimensions)"
    if "embedding" in fact.owners:
        tied = len(fact.owners) > 1
        return AUX, "embedding tied to the output head" if tied else "embedding"
    if "table" in fact.owners:
        return AUX, "embedding (a parameter of an embeddings module)"
    if "convolution" in fact.owners:
        return AUX, "convolution kernel"
    if len(shape) > 2 and sum(size > 1 for size in shape) < 2:
        return AUX, "a single row or column: a vector, not a matrix"
    if len(shape) > 2:
        return AUX, UNKNOWN_TENSOR
    if "head" in fact.owners:
        return AUX, "output head (get_output_embeddings)"
    if shape in heads:
        return AUX, "output head (same shape as an embedding)"
    if path and path[-1] in HEAD_NAMES and not fact.in_block:
        return AUX, f"output head (named {path[-1]!r}, outside the blocks)"
    if "linear" not in fact.owners:
        return AUX, "2-D, but not the weight of a linear layer: name it in `include` if it is one"
    if min(shape) == 1:
        return AUX, "a single row or column: a vector, not a matrix"
    return MATRIX, "weight of a hidden linear layer"


def _overridden(
    fact: ParameterFacts,
    assignment: Assignment,
    included: set[str],
    excluded: set[str],
    split: Split | None,
) -> Assignment:
    name, shape = assignment.name, assignment.shape
    if name in excluded:
        assignment = replace(assignment, rule=AUX, reason="named in exclude", blocks=())
    elif name in included and assignment.reason not in UNKNOWN:
        if assignment.rule == AUX and len(shape) != 2:
            raise ValueError(
                f"include names {name!r} of shape {shape}: only 2-D parameters can be matrices"
            )
        blocks = assignment.blocks or blocks_of(shape)
        assignment = replace(assignment, rule=MATRIX, reason="named in include", blocks=blocks)
    if split is not None:
        return _split(fact, assignment, split)
    if assignment.reason == UNKNOWN_TENSOR:
        raise ValueError(
            f"{name!r} has shape {shape}, and its module does not say which matrices lie in it. If "
            "every [i] is one matrix [outputs, inputs], say it in `split` "
            f'({{"{name}": 1}}, or 2 if gate and up follow one another in its rows). Or name it in '
            "`exclude` to have it updated by the auxiliary AdamW."
        )
    if assignment.reason == UNKNOWN_FUSED:
        raise ValueError(
            f"{name!r} of shape {shape} is called like a weight that holds several matrices "
            "(queries, keys and values; gate and up), and its module does not say which. Say it in "
            f'`split`: the rows of each, {{"{name}": [queries, keys, values]}}, how many equal '
            "parts, or 1 if it is one matrix. Or name it in `exclude` to have it updated by the "
            "auxiliary AdamW."
        )
    return assignment


def _split(fact: ParameterFacts, assignment: Assignment, split: Split) -> Assignment:
    if assignment.rule == AUX and assignment.reason not in UNKNOWN:
        raise ValueError(
            f"split names {assignment.name!r}, which the auxiliary AdamW updates "
            f"({assignment.reason}): there is no matrix to split"
        )
    try:
        parts = fact.split_by_heads() if split == "heads" else split
        assert not isinstance(parts, str)
        inside, shape = fact.inside, assignment.shape
        blocks = inside.split(shape, parts) if inside else blocks_of(shape, parts)
    except ValueError as error:
        raise ValueError(f"split of {assignment.name!r}: {error}") from None
    return replace(assignment, rule=MATRIX, reason="named in split", blocks=blocks)
