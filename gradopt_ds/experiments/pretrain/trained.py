"""The optimizer's settings as the live optimizer has them, be they from a checkpoint."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from deepspeed import DeepSpeedEngine
from torch import Tensor

from gradopt_ds.optim.param_groups import AUX, MATRIX
from gradopt_ds.optim.resumed_settings import FROM_CONFIG

Group = Mapping[str, Any]


def trained_params(engine: DeepSpeedEngine) -> dict[str, Any]:
    """Return the JSON's optimizer ``params``, each key with the value that is trained with."""
    groups = engine.basic_optimizer.param_groups
    by_rule = {group.get("rule"): group for group in reversed(groups)}
    own = by_rule.get(MATRIX, groups[0])
    return live_params(engine.optimizer_params() or {}, own, by_rule.get(AUX))


def kept_from_checkpoint(engine: DeepSpeedEngine) -> list[str]:
    """Write one sentence for each setting that is not trained with the JSON's value."""
    asked, trained = engine.optimizer_params() or {}, trained_params(engine)
    return [
        f"optimizer.params.{name}: the JSON says {old!r}, and the checkpoint's {new!r} stays"
        for name, old, new in _different(asked, trained)
        # The groups write the oracle out in full; it is the JSON's in any case.
        if not set(FROM_CONFIG) & set(name.split("."))
    ]


def live_params(asked: Mapping[str, Any], own: Group, aux: Group | None) -> dict[str, Any]:
    """Replace what was asked for by what groups hold.

    Args:
        asked: the ``params`` of a JSON.
        own: the group of the matrices, or the first.
        aux: the group of the auxiliary AdamW, if there is one.
    """
    trained: dict[str, Any] = {}
    for key, value in asked.items():
        if key == "aux" and isinstance(value, Mapping):
            trained[key] = dict(value) if aux is None else live_params(value, _as_aux(aux), None)
        elif key == "base" and isinstance(value, Mapping):  # of a gradient power
            inner = live_params(value.get("params") or {}, own, aux)
            trained[key] = {**value, "params": inner} if inner else dict(value)
        else:
            trained[key] = _live(key, value, own)
    return trained


def _as_aux(group: Group) -> Group:
    """Put an auxiliary group's own rate in place of the matrices', by their ratio."""
    return {**group, "initial_lr": group.get("initial_lr", group["lr"]) * group["lr_scale"]}


def _live(key: str, asked: Any, group: Group) -> Any:
    if key in FROM_CONFIG:  # loading leaves it as the JSON has it
        return asked
    # A schedule moves `lr`; its peak is what the JSON means.
    name = "initial_lr" if key == "lr" and "initial_lr" in group else key
    value = group.get(name, asked)
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else asked
    return asked if _same(asked, value) else value


def _same(asked: Any, value: Any) -> bool:
    if isinstance(asked, float | int) and isinstance(value, float | int):
        return math.isclose(asked, value, rel_tol=1e-9)
    if isinstance(asked, list | tuple) and isinstance(value, list | tuple):
        return list(asked) == list(value)
    return bool(asked == value)


def _different(
    asked: Mapping[str, Any], trained: Mapping[str, Any], before: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for key, value in asked.items():
        if isinstance(value, Mapping):
            yield from _different(value, trained[key], f"{before}{key}.")
        elif not _same(value, trained[key]):
            yield f"{before}{key}", value, trained[key]
