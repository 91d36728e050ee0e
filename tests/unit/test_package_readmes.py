"""Every package has a README whose table names each of its files, and no other."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = sorted(path.parent for path in (ROOT / "gradopt_ds").rglob("__init__.py"))
NAMED = re.compile(r"`([\w.]+\.\w+|\w+/)`")
NOT_LISTED = {"__init__.py", "README.md", "py.typed"}


def files_of(package: Path) -> set[str]:
    """Files and, with a slash, packages that lie in a folder."""
    files = {path.name for path in package.iterdir() if path.is_file()}
    packages = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    return (files | packages) - NOT_LISTED


def files_in_table(readme: str) -> list[str]:
    """What the first columns of the tables with the head ``file`` or ``package`` name."""
    tables = re.findall(r"^\| (?:file|package) \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", readme, re.M)
    first_columns = [row.split("|")[1] for table in tables for row in table.splitlines()]
    return [name for column in first_columns for name in NAMED.findall(column)]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_table_names_every_file_once(package: Path) -> None:
    assert sorted(files_in_table((package / "README.md").read_text())) == sorted(files_of(package))
