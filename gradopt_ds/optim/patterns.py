"""Glob patterns on parameter names: each must match something."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from gradopt_ds.optim.splits import Split


def matching(names: Iterable[str], patterns: Sequence[str], setting: str) -> set[str]:
    """Return the names that a setting's glob patterns match.

    Raises:
        ValueError: a pattern matches none; the message lists what there is.
    """
    available = list(names)
    matched: set[str] = set()
    for pattern in patterns:
        names = {name for name in available if fnmatchcase(name, pattern)}
        if not names:
            raise ValueError(
                f"{setting} pattern {pattern!r} matches no parameter; "
                f"the model has {listed(available)}"
            )
        matched |= names
    return matched


def splits_by_name(names: Sequence[str], split: Mapping[str, Split]) -> dict[str, Split]:
    """Return parameter name → its split.

    Raises:
        ValueError: a pattern matches no name, or two patterns match one.
    """
    parts_of: dict[str, Split] = {}
    for pattern, parts in split.items():
        for name in sorted(matching(names, [pattern], "split")):
            if name in parts_of:
                raise ValueError(f"two patterns of split match {name!r}: {pattern!r} is one")
            parts_of[name] = parts
    return parts_of


def listed(items: Sequence[object], most: int = 12) -> str:
    """Return the first ``most`` items, and how many there are if that is not all."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown}, … ({len(items)} in all)"
