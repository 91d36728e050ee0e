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


def test_modules_import_each_other_in_one_order() -> None:
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, file in known.items():
        # "from a import b" names a module a.b, or something that is defined in a.
        targets = {t if t in known else t.rpartition(".")[0] for t in imported(file)}
        graph[name] = targets & known.keys() - {name}
    assert circle(graph) == []
