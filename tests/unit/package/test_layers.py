"""Imports point one way: a package knows those below it, and no circle leads back."""

import pytest

from tests.unit.package.imports import imported, modules

LAYERS = {
    "matrices": set(),
    "checkpoint": set(),
    "ops": {"matrices"},
    "optim": {"matrices", "ops"},
    "sharding": {"matrices", "ops"},
    "integration": {"matrices", "ops", "optim", "sharding", "checkpoint"},
    "memory": {"matrices", "ops", "optim", "sharding", "checkpoint", "integration"},
    "experiments": {
        "matrices", "ops", "optim", "sharding", "checkpoint", "integration", "memory",
    },
}  # fmt: skip
"""Package → the packages that it may import."""

EXPERIMENTS = {
    "common": set(),
    "pretrain": {"common"},
    "compare": {"common", "pretrain"},
    "oracle_benchmark": {"common", "pretrain"},
    "step_benchmark": {"common"},
    "matrix_problems": {"common"},
    "memory_report": {"common"},
    "exchange_plan": {"common"},
    "gpu_report": {"common"},
}
"""Experiment → the experiments that it may import."""

DEEPSPEED = {"integration", "experiments", "memory"}
"""The packages that may know DeepSpeed."""


def arrows(depth: int) -> set[tuple[str, str]]:
    """Pairs of packages ``depth`` names below ``gradopt_ds``: the first imports the second."""
    known = {name.split(".")[depth] for name in modules() if name.count(".") >= depth}
    pairs = set()
    for name, file in modules().items():
        for target in imported(file):
            if name.count(".") < depth or target.count(".") < depth:
                continue
            here, there = name.split("."), target.split(".")
            if here[:depth] == there[:depth] and here[depth] != there[depth] in known:
                pairs.add((here[depth], there[depth]))
    return pairs


def test_packages_import_what_lies_below_them() -> None:
    top = {"__init__", "command"}
    wrong = {
        (here, there)
        for here, there in arrows(1)
        if here in LAYERS and there not in LAYERS[here] and there not in top
    }
    assert not wrong
    assert {here for here, _ in arrows(1)} <= LAYERS.keys() | {"command"}


def test_experiments_share_through_common() -> None:
    wrong = {
        (name, other)
        for name, file in modules().items()
        for target in imported(file)
        if name.startswith("gradopt_ds.experiments.") and name.count(".") > 2
        if target.startswith("gradopt_ds.experiments.")
        for other in [target.split(".")[2]]
        if other != name.split(".")[2] and other not in EXPERIMENTS[name.split(".")[2]]
    }
    assert not wrong


@pytest.mark.parametrize("package", sorted(LAYERS.keys() - DEEPSPEED))
def test_only_the_upper_packages_know_deepspeed(package: str) -> None:
    users = [
        name
        for name, file in modules().items()
        if name.startswith(f"gradopt_ds.{package}")
        if any(target.split(".")[0] == "deepspeed" for target in imported(file))
    ]
    assert not users
