"""Records of pipeline stages: joined into one of the whole model, and looked at from one stage.

A stage has parameter groups of its own, and perhaps none of the matrices. What its groups have in
common with those of another stage is their rule.
"""

from collections.abc import Sequence
from dataclasses import replace

from gradopt_ds.checkpoint.record import Group, Record


def joined(stages: Sequence[Record]) -> Record:
    """Join one record of every pipeline stage into that of the whole model, without slices.

    Raises:
        ValueError: there are several stages, and several groups of one rule on one of them.
    """
    first = replace(stages[0], slices=(), elsewhere=())
    if len(stages) == 1:
        return first
    groups: dict[str, Group] = {}
    for stage in stages:
        _require_one_of_each_rule(stage)
        for group in stage.groups:
            known = groups.setdefault(group.rule, group)
            parameters = {**group.parameters, **known.parameters}
            groups[group.rule] = replace(known, parameters=parameters)
    return replace(first, groups=tuple(groups.values()))


def groups_of(saved: Record, stage: Record) -> list[int]:
    """Return, for every group of a stage, which of the whole model's groups it is a part of.

    Raises:
        ValueError: several groups have one rule, or the whole model has none of that rule.
    """
    for record in (saved, stage):
        _require_one_of_each_rule(record)
    rules = [group.rule for group in saved.groups]
    if absent := [group.rule for group in stage.groups if group.rule not in rules]:
        raise ValueError(f"this checkpoint has no parameter group of the rule {absent[0]!r}")
    return [rules.index(group.rule) for group in stage.groups]


def seen_from(saved: Record, stage: Record) -> Record:
    """Return a whole model's record without the parameters that other stages answer for."""
    order = groups_of(saved, stage)
    order += [index for index in range(len(saved.groups)) if index not in order]
    elsewhere = set(stage.elsewhere)
    groups = []
    for index in order:
        group = saved.groups[index]
        parameters = {n: shape for n, shape in group.parameters.items() if n not in elsewhere}
        if parameters:
            groups.append(replace(group, parameters=parameters))
    return replace(saved, groups=tuple(groups))


def _require_one_of_each_rule(record: Record) -> None:
    rules = [group.rule for group in record.groups]
    if twice := sorted({rule for rule in rules if rules.count(rule) > 1}):
        raise ValueError(
            f"a model with pipeline stages has several parameter groups of the rule {twice[0]!r}, "
            "and which of them belong together on other stages is not known: its checkpoints "
            "resume on as many stages and ranks as saved them"
        )
