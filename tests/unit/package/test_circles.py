"""No module imports itself by way of others, at its top or inside a function."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from tests.unit.package.imports import imported, modules


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """One circle of a graph, its first name again at its end; empty if there is none."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def run_by(name: str, target: str) -> set[str]:
    """What runs when a module imports a dotted name: the packages around it, too.

    Not those around the importing module, which are already being imported.
    """
    parts = target.split(".")
    prefixes = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return {prefix for prefix in prefixes if not f"{name}.".startswith(f"{prefix}.")}


def test_modules_import_each_other_in_one_order() -> None:
    known = modules()
    graph = {
        name: {m for target in imported(file) for m in run_by(name, target)} & known.keys()
        for name, file in known.items()
    }
    assert circle(graph) == []
