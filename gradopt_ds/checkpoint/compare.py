"""A saved record against the one of the optimizer that is to load it."""

from collections.abc import Iterator, Sequence

from gradopt_ds.checkpoint.record import Record

CONVERT = "gradopt-ds convert"
"""The command that makes a checkpoint loadable on other slices."""

CONVERT_AND_LOAD = (
    f'convert it ({CONVERT} IN OUT) and load it with "checkpoint": {{"load_universal": true}}'
)

WEIGHTS_ALONE = (
    "load the weights alone (load_module_only=True, load_optimizer_states=False; the model must be "
    "the same)"
)
"""Neither argument does at every ZeRO stage without the other."""

AT_MOST = 5
"""Differences that a message shows."""


def check_content(saved: Record, current: Record) -> None:
    """Compare what does not depend on how the parameters are cut.

    Raises:
        ValueError: another optimizer, another number of tensor-parallel ranks, or other
            parameters, shapes or rules; says which.
    """
    if saved.optimizer != current.optimizer:
        raise ValueError(
            f"this checkpoint was saved by {saved.optimizer}, not by {current.optimizer}: use "
            f"that optimizer, or {WEIGHTS_ALONE}"
        )
    then, now = (record.tensor.size if record.tensor else 1 for record in (saved, current))
    if then != now:
        raise ValueError(
            f"this checkpoint was saved by {then} tensor-parallel ranks, and there are {now} now: "
            f'resume on as many, or convert it ({CONVERT} IN OUT) and load it with "checkpoint": '
            '{"load_universal": true}'
        )
    if differences := list(_differences(saved, current)):
        raise ValueError(
            "this checkpoint does not fit the model and its parameter groups: "
            f"{_listed(differences)}. Set the model, include, exclude and the groups back to what "
            f"they were, or {WEIGHTS_ALONE}"
        )


def check_stages(saved: Record, current: Record) -> None:
    """Compare into how many pipeline stages the model is cut.

    Raises:
        ValueError: another number, and so other parameters on a rank.
    """
    if saved.pipeline_stages != current.pipeline_stages:
        raise ValueError(
            f"this checkpoint was saved by {saved.pipeline_stages} pipeline stages, and there are "
            f"{current.pipeline_stages} now: {CONVERT_AND_LOAD} (ZeRO stage 1)"
        )


def check_layout(saved: Record, current: Record) -> None:
    """Compare how the parameters are cut into slices.

    Raises:
        ValueError: other shards of tensor parallelism, another number of ranks, or other slices.
    """
    if saved.tensor != current.tensor:
        raise ValueError(
            "this checkpoint was saved by tensor-parallel ranks with other shards of the same "
            "shapes (sub-parameters of fused weights, partition_stride): set the model and "
            '"tensor_parallel" back to what they were'
        )
    if not current.slices and not saved.slices:
        return  # Stage 0: every rank has everything.
    if not current.slices or not saved.slices:
        raise ValueError(
            f"this checkpoint was saved at ZeRO stage {saved.stage} and cannot be loaded at stage "
            f"{current.stage}: one of them has no slices"
        )
    if saved.ranks != current.ranks:
        raise ValueError(
            f"this checkpoint was saved by {saved.ranks} ranks, and there are {current.ranks} now: "
            + CONVERT_AND_LOAD
        )
    if saved.slices != current.slices:
        raise ValueError(
            f"this checkpoint's slices are cut differently (ZeRO stage {saved.stage} then, "
            f"{current.stage} now; sub_group_size, round_robin_gradients, parameter_alignment and "
            f"the accumulation data type matter too): set these back, or "
            f"{CONVERT_AND_LOAD}"
        )


def _differences(saved: Record, current: Record) -> Iterator[str]:
    if len(saved.groups) != len(current.groups):
        yield f"{len(saved.groups)} parameter groups then, {len(current.groups)} now"
    then, now = _members(saved), _members(current)
    for name in [*then, *(name for name in now if name not in then)]:
        if name not in now:
            yield f"{name!r} is no parameter of the optimizer now"
        elif name not in then:
            yield f"{name!r} was no parameter of the optimizer then"
        elif then[name] != now[name]:
            yield f"{name!r} was {_described(then[name])} and is {_described(now[name])}"


def _members(record: Record) -> dict[str, tuple[str, tuple[int, ...], int]]:
    return {
        name: (group.rule, shape, index)
        for index, group in enumerate(record.groups)
        for name, shape in group.parameters.items()
    }


def _described(member: tuple[str, tuple[int, ...], int]) -> str:
    rule, shape, group = member
    return f"{rule} of shape {shape} in group {group}"


def _listed(differences: Sequence[str]) -> str:
    shown = "; ".join(differences[:AT_MOST])
    more = len(differences) - AT_MOST
    return f"{shown}; and {more} more" if more > 0 else shown
