"""What a distributed test is: a body that every rank runs, on so many ranks, with a case."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Body = Callable[..., None]

FOLDER_VARIABLE = "DISTRIBUTED_TESTS_FOLDER"
"""Where ``folder`` is, in the environment of the ranks."""
BACKEND_VARIABLE = "DISTRIBUTED_TESTS_BACKEND"
"""What the ranks communicate by."""


@dataclass(frozen=True, order=True)
class Place:
    """What the ranks run on."""

    accelerator: str = "cpu"
    """Under DeepSpeed's name."""
    backend: str = "gloo"
    devices: int = 1
    """Of the accelerator; several ranks may share one."""

    def environment(self, rank: int) -> dict[str, str]:
        """What a rank's process is told."""
        device = rank if self.accelerator == "cpu" else rank % self.devices
        return {
            "DS_ACCELERATOR": self.accelerator,
            BACKEND_VARIABLE: self.backend,
            "RANK": str(rank),
            "LOCAL_RANK": str(device),
        }


CPU = Place()


@dataclass(frozen=True)
class Job:
    """A body, and what it runs on."""

    body: Body
    ranks: int
    case: Any = None
    """The body's argument; None for a body without one."""

    @property
    def name(self) -> str:
        """As pytest writes it; no two jobs have the same."""
        module = self.body.__module__.rpartition(".")[2]
        return f"{module}::{self.body.__name__}[{job_id(self.ranks, self.case)}]"

    @property
    def needs(self) -> "Job | None":
        """What must have run before."""
        needs = declaration(self.body).needs
        return needs(self.ranks, self.case) if needs else None

    @property
    def dying(self) -> int | None:
        """The rank that ends its process in the body."""
        return declaration(self.body).dying

    @property
    def place(self) -> Place:
        """What its ranks run on."""
        return declaration(self.body).place

    @property
    def order(self) -> tuple[int, bool, Place, int, bool]:
        """What needs nothing first, on the CPU first; last what ends a process."""
        needs = self.needs
        other = self.place != CPU
        rank = needs.order[0] + 1 if needs else 0
        return (rank, other, self.place, self.ranks, self.dying is not None)


@dataclass(frozen=True)
class Declaration:
    """What ``distributed`` says of a body besides its parameters."""

    dying: int | None = None
    needs: Callable[[int, Any], Job] | None = None
    place: Place = CPU


def declaration(body: Body) -> Declaration:
    """What was declared; a body that others need may be a plain function."""
    declared: Declaration = getattr(body, "declaration", Declaration())
    return declared


def distributed(
    *ranks: int,
    cases: Sequence[Any] | Mapping[int, Sequence[Any]] | None = None,
    dying: int | None = None,
    needs: Callable[[int, Any], Job] | None = None,
    place: Place = CPU,
) -> Callable[[Body], Body]:
    """Make a test of a function that every rank runs: one for each number of ranks and case.

    Args:
        ranks: how many processes; several numbers make several tests.
        cases: arguments of the body, for all numbers of ranks alike or by number of ranks.
        dying: the rank that ends its process in the body; the others pass by returning.
        needs: takes the number of ranks and the case; returns a job that must have run before.
        place: what the ranks run on.

    Raises:
        ValueError: two tests would have one name.
    """
    per_ranks = cases if isinstance(cases, Mapping) else dict.fromkeys(ranks, cases or [None])
    pairs = [(count, case) for count in ranks for case in per_ranks[count]]
    ids = [job_id(count, case) for count, case in pairs]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise ValueError(f"several cases are called {sorted(twice)}")

    def declare(body: Body) -> Body:
        body.declaration = Declaration(dying, needs, place)  # type: ignore[attr-defined]
        parametrized = pytest.mark.parametrize(("ranks", "case"), pairs, ids=ids)(body)
        # The body takes no ranks, and not always a case; pytest is content if a fixture does.
        return pytest.mark.usefixtures("ranks", "case")(parametrized)

    return declare


def job_id(ranks: int, case: Any) -> str:
    """``2ranks-swan-stage3-bf16``: words for ``pytest -k``."""
    text = f"{ranks}rank{'s' * (ranks > 1)}"
    if case is not None:
        text += f" {getattr(case, 'name', case)}"
    return re.sub(r"[^\w.]+", "-", text.lower()).strip("-")


@dataclass(frozen=True)
class Outcome:
    """What one rank made of a job: a traceback or none, and the numbers it recorded."""

    failure: str = ""
    values: dict[str, float] = field(default_factory=dict)
    is_alive: bool = True
    """Whether the rank's process can take another job."""


_recorded: dict[str, float] = {}


def record(**values: float) -> None:
    """Show numbers under ``pytest --errors``; of several ones of a name the largest counts."""
    for name, value in values.items():
        _recorded[name] = max(_recorded.get(name, value), value)


def take_recorded() -> dict[str, float]:
    """The numbers since the last call."""
    values = dict(_recorded)
    _recorded.clear()
    return values


def folder(*names: str) -> Path:
    """A path that all ranks share, and all jobs of one run of pytest; it may not exist yet."""
    return Path(os.environ[FOLDER_VARIABLE], *names)
