"""Settings of a saved state against those an optimizer was built with: refused, kept or said."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

logger = logging.getLogger("gradopt_ds")

BASE_LR = "base_lr"
"""A group's key for the ``lr`` it was given: schedulers write ``lr`` and leave this alone."""

FROM_CONFIG = ("oracle", "stochastic_rounding", "fused")
"""How a step is computed, not what it is: loading leaves these as they are configured."""

NO_SETTINGS = frozenset({"params", "param_names", "initial_lr", "rounding_step", "algorithm"})
"""Keys of a group that are state, or that are compared elsewhere."""

Settings = Mapping[str, Any]


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a group's settings in numbers, strings, lists and mappings; ``lr`` is its base."""
    settings = {k: plain(v) for k, v in group.items() if k not in {*NO_SETTINGS, BASE_LR}}
    if "lr" in settings:
        settings["lr"] = plain(group.get(BASE_LR, group["lr"]))
    return settings


def configured_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return what the groups said before anything was loaded; remembered when first asked for."""
    settings: list[dict[str, Any]] = vars(optimizer).setdefault(
        "_configured", [settings_of(group) for group in optimizer.param_groups]
    )
    return settings


def refuse_another_rule(
    saved: Sequence[Settings], configured: Sequence[Settings], fixed: Collection[str]
) -> None:
    """Refuse settings under which the saved state would mean something else.

    Args:
        saved: of every group.
        configured: of every group.
        fixed: names of the settings that may not change; a number among them may, but not from
            zero or to zero, where the state begins or ends.

    Raises:
        ValueError: one differs; with its name and both values.
    """
    for index, (then, now) in enumerate(zip(saved, configured, strict=False)):
        for key in fixed:
            if key in then and key in now and _kind(then[key]) != _kind(now[key]):
                raise ValueError(
                    f"this state was saved with {key} {then[key]!r} in parameter group {index}, "
                    f"and the optimizer is configured with {now[key]!r}: the state would mean "
                    f"something else. Set {key} back, or begin with the weights alone"
                )


def load_with_settings(
    optimizer: Optimizer,
    state_dict: dict[str, Any],
    load: Callable[[dict[str, Any]], None],
    fixed: Collection[str] = (),
) -> None:
    """Load a state, and say which settings of which side hold from now on.

    The saved settings go on, but for those in ``FROM_CONFIG`` and those that the state lacks.

    Args:
        optimizer: whose groups are loaded.
        state_dict: of ``torch.optim``.
        load: torch's own loading.
        fixed: see :func:`refuse_another_rule`.

    Raises:
        ValueError: a fixed setting differs; nothing has been loaded.
    """
    configured = configured_settings(optimizer)
    saved = [settings_of(group) for group in state_dict["param_groups"]]
    refuse_another_rule(saved, configured, fixed)
    groups = [dict(group) for group in state_dict["param_groups"]]
    for group, settings in zip(groups, configured, strict=False):  # torch refuses other numbers
        # Before torch loads: it puts AdamW's counter where the fused step wants it.
        group.update({key: settings[key] for key in FROM_CONFIG if key in settings})
    load({**state_dict, "param_groups": groups})
    for group, settings in zip(optimizer.param_groups, configured, strict=True):
        for key, value in settings.items():
            group.setdefault(key, value)
        if "lr" in group:
            group.setdefault(BASE_LR, settings["lr"])
    _say(saved, configured)


def use_configured(optimizer: Optimizer, lr_is_scheduled: bool) -> list[str]:
    """Put every group's settings back to what was configured before loading.

    Args:
        optimizer: after loading.
        lr_is_scheduled: leave ``lr`` to the scheduler, whose next step would overwrite it.

    Returns:
        What has changed, and what has not, in words.
    """
    changes = []
    configured = configured_settings(optimizer)
    for index, (group, settings) in enumerate(zip(optimizer.param_groups, configured, strict=True)):
        held = settings_of(group)
        is_scheduled = lr_is_scheduled or "initial_lr" in group
        if "lr" in group and not is_scheduled:
            held["lr"] = plain(group["lr"])  # where a schedule that is gone has left it
        for key, value in settings.items():
            if held[key] == value:
                continue
            if key == "lr" and is_scheduled:
                changes.append(
                    f"group {index}: lr is left to the scheduler (the saved group began from "
                    f"{held[key]!r}, configured: {value!r}); what it does is set there"
                )
                continue
            changes.append(f"group {index}: {key} {value!r} from now on ({held[key]!r} before)")
            group[key] = tuple(value) if isinstance(group[key], tuple) else value
            if key == "lr":
                group[BASE_LR] = value
    return changes


def left_by_a_schedule(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the groups whose ``lr`` is not the one they were given, in words."""
    return [
        f"group {index}: lr is {group['lr']!r}, and was {group[BASE_LR]!r} before any schedule"
        for index, group in enumerate(groups)
        if BASE_LR in group and group["lr"] != group[BASE_LR]
    ]


def plain(value: Any) -> Any:
    """Return a setting as JSON has it; what JSON cannot have, as text."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


def _kind(value: Any) -> Any:
    return value != 0 if isinstance(value, int | float) and not isinstance(value, bool) else value


def _say(saved: Sequence[Settings], configured: Sequence[Settings]) -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
        return
    lines = [
        f"  group {index} ({now.get('rule', 'elementwise')}): {line}"
        for index, (then, now) in enumerate(zip(saved, configured, strict=True))
        for line in _differences(then, now)
    ]
    if lines:
        logger.warning(
            "the loaded state was saved with other settings than are configured now:\n%s\nTo go "
            "on with the configured ones, call gradopt_ds.take_settings_from_config(engine) after "
            "loading; without DeepSpeed, write them into optimizer.param_groups",
            "\n".join(lines),
        )


def _differences(then: Settings, now: Settings) -> Iterator[str]:
    for key in [*now, *(key for key in then if key not in now)]:
        if key not in then:
            yield f"{key} is {now[key]!r} as configured (the saved state does not say)"
        elif key not in now:
            yield f"{key} goes on as {then[key]!r} (saved; nothing is configured)"
        elif then[key] != now[key] and key in FROM_CONFIG:
            yield f"{key} is {now[key]!r} as configured (saved: {then[key]!r})"
        elif then[key] != now[key] and key == "lr":
            yield (
                f"lr goes on as {then[key]!r} (saved; configured: {now[key]!r}), unless a "
                "scheduler sets it"
            )
        elif then[key] != now[key]:
            yield f"{key} goes on as {then[key]!r} (saved; configured: {now[key]!r})"
