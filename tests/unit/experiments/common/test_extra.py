"""Where a package of the extra is missing, a script says so in one line."""

import re
import subprocess
import sys

import pytest

from gradopt_ds.experiments.common import extra
from tests.conftest import ROOT

MESSAGE = (
    "error: not installed: {}. The extra 'experiments' has all that is needed here: "
    "pip install 'gradopt-ds[experiments]'\n"
)
WITHOUT = """
import runpy, sys
sys.modules[sys.argv[1]] = None  # it cannot be found, as if it were not installed
for script in sys.argv[2:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print(script, end.code)
"""
NAMES = (
    "bench_oracles", "bench_step", "compare", "gpu_summary", "matrix_problems", "memory", "plan",
    "pretrain",
)  # fmt: skip
SCRIPTS = [str(ROOT / f"scripts/{name}.py") for name in NAMES]
"""Those of the experiments; the others make the documentation."""


def test_the_packages_are_those_of_the_extra() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^experiments = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert sorted(extra.PACKAGES) == sorted(re.findall(r'"([a-z0-9-]+)>=', listed))


def test_every_script_names_the_extra() -> None:
    """Before anything is imported that needs it, and before any rank is started."""
    command = [sys.executable, "-c", WITHOUT, "transformers", *SCRIPTS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "".join(f"{script} 2\n" for script in SCRIPTS), done.stderr
    assert done.stderr == len(SCRIPTS) * MESSAGE.format("transformers")


def test_all_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("datasets", "matplotlib"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as end, extra.required():
        raise AssertionError("the block must not run")
    assert end.value.code == 2
    assert capsys.readouterr().err == MESSAGE.format("datasets, matplotlib")


def test_nothing_is_said_where_nothing_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with extra.required():
        ran = True
    assert ran and capsys.readouterr().err == ""


def test_a_later_import_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    extra.require("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = r"matplotlib is not installed: pip install 'gradopt-ds\[experiments\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        extra.require("matplotlib")
