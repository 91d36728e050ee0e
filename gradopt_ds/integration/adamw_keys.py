"""AdamW's four keys at the top of another optimizer's ``params``: whom each of them reaches.

The JSON that people have names AdamW, and its ``lr``, ``betas``, ``eps`` and ``weight_decay`` are
``"auto"``: transformers fills just these, there, whatever the ``type``.
"""

from collections.abc import Collection, Mapping
from typing import Any

AUTO = "auto"

AUXILIARY = ("betas", "eps")
"""What a matrix rule has no use for, and its auxiliary AdamW has."""

HANDED_ON = ("lr", "weight_decay", *AUXILIARY)
"""What ``"GradPower"`` takes beside its base, and hands on to it."""


def lent_to_aux(keys: Collection[str]) -> tuple[str, ...]:
    """Return the keys at the top that belong to the auxiliary AdamW.

    Args:
        keys: of the optimizer's constructor; one that it has itself is its own.
    """
    return tuple(key for key in AUXILIARY if "aux" in keys and key not in keys)


def handed_on(
    label: str, settings: Mapping[str, Any], base: Mapping[str, Any], valid: Collection[str]
) -> dict[str, Any]:
    """Complete a base's settings by those that stand beside it; its own come first.

    Args:
        label: names the base in messages.
        settings: of the GradPower.
        base: the base's own.
        valid: keys that the base takes.

    Raises:
        ValueError: names a key that the base does not take.
    """
    given = {key: settings[key] for key in HANDED_ON if key in settings}
    for key in given:
        if key not in valid:
            raise ValueError(
                f"{label} takes no {key!r}, which the params beside it hand on: remove it; valid: "
                f"{', '.join(sorted(valid, key=str.lower))}"
            )
    return {**given, **base}


def refuse_auto(label: str, params: Mapping[str, Any], place: str = "") -> None:
    """Refuse an ``"auto"`` that nobody has filled.

    Args:
        label: names the optimizer in messages.
        params: the JSON's, at any depth.
        place: where they stand, for the message.

    Raises:
        ValueError: names the key, and says what to write.
    """
    for key, value in params.items():
        name = f"{place}{key}"
        if isinstance(value, Mapping):
            refuse_auto(label, value, f"{name}.")
        elif isinstance(value, str) and value == AUTO:
            raise ValueError(f"{label}: {name}: got 'auto', {_advice(name)}")


def _advice(name: str) -> str:
    if name in HANDED_ON:
        return (
            "which transformers' Trainer replaces by its argument, and Accelerate's DummyOptim "
            "only for lr and weight_decay; without them write a value"
        )
    where = (
        f"and nothing fills it there: transformers fills {', '.join(HANDED_ON)} at the top of "
        '"params" alone. Write a value'
    )
    if name == "aux.lr":
        return f'{where}, or "aux": {{"lr_scale": 1.0}} for the same rate as lr'
    if name.startswith("base.params.") and name.count(".") == 2:
        return f'{where}, or write the key beside "base", which hands these four on'
    return where
