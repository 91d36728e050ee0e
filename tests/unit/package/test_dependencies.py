"""The base dependencies are what the library imports, no more and no less."""

import re
import sys

if sys.version_info >= (3, 11):
    import tomllib
else:  # hypothesis, mypy and pytest bring it
    import tomli as tomllib

from tests.conftest import ROOT
from tests.unit.package.imports import imported, modules

METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def third_party(experiments: bool) -> set[str]:
    """Top names of what the library, or the experiments, import from other distributions."""
    return {
        target.split(".")[0]
        for name, file in modules().items()
        if name.startswith("gradopt_ds.experiments") == experiments
        for target in imported(file)
    } - {*sys.stdlib_module_names, "gradopt_ds"}


def declared(requirements: list[str]) -> set[str]:
    """Names of the required distributions."""
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


def test_the_library_declares_what_it_imports() -> None:
    assert third_party(experiments=False) == declared(METADATA["dependencies"])


def test_the_experiments_declare_what_they_import_besides() -> None:
    extra = declared(METADATA["optional-dependencies"]["experiments"])
    base = declared(METADATA["dependencies"])
    # DeepSpeed's monitor writes the event files.
    assert third_party(experiments=True) - base == extra - {"tensorboard"}
