"""A figure with its goal, and the files that figures are read from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One figure.

    Attributes:
        subject: what was measured, on what.
        quantity: of it.
        value: the figure.
        unit: of the figure; empty for a ratio.
        most: the goal, which the figure must not exceed in size; None without one.
        source: the file that says so, from the folder of the parts.
    """

    subject: str
    quantity: str
    value: float
    unit: str = ""
    most: float | None = None
    source: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.most is None else abs(self.value) <= self.most


def records(folder: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read every file of a name below a folder.

    Yields:
        Its path from the folder, and its content.
    """
    for path in sorted(folder.rglob(name)):
        yield str(path.relative_to(folder)), json.loads(path.read_text())
