"""``gradopt-ds run``: commands that know the library without an import line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradopt_ds import run
from gradopt_ds.command import SUBCOMMANDS
from tests.conftest import ROOT

KNOWN = """
import sys
assert "gradopt_ds" not in sys.modules and "deepspeed" not in sys.modules
import importlib.util
assert importlib.util.find_spec("deepspeed")  # as accelerate asks whether it is there
import deepspeed
from deepspeed.runtime.engine import DeepSpeedEngine
print("known:", DeepSpeedEngine._gradopt_ds_installed)
"""


def python(program: str, *path: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """A Python that starts as in a command of ``gradopt-ds run``."""
    before = os.pathsep.join(map(str, [*path, ROOT]))
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**run.environment({**os.environ, "PYTHONPATH": before}), **more},
        capture_output=True,
        text=True,
    )


def test_an_import_of_deepspeed_is_enough() -> None:
    finished = python(KNOWN)
    assert finished.stdout.splitlines()[-1:] == ["known: True"], finished.stderr


def test_another_sitecustomize_goes_on_working(tmp_path: Path) -> None:
    """It is run, it can import what lies beside it, and it is the module of that name."""
    (tmp_path / "beside.py").write_text("WORD = 'traced'")
    (tmp_path / "sitecustomize.py").write_text("import beside\nword = beside.WORD\n")
    program = "import sys, sitecustomize as s; print(s.word, s.__file__, 'torch' in sys.modules)"
    finished = python(program, tmp_path)
    expected = f"traced {tmp_path / 'sitecustomize.py'} False"
    assert finished.stdout.strip() == expected, finished.stderr


def test_a_sitecustomize_that_fails_is_said_by_python(tmp_path: Path) -> None:
    """As without this one; the library is known all the same."""
    (tmp_path / "sitecustomize.py").write_text("raise KeyError('broken')")
    finished = python("import sys; print(sys.meta_path[0].__name__)", tmp_path)
    assert "broken" in finished.stderr and finished.stdout.strip() == "AfterDeepSpeed"


def test_python_path_is_kept() -> None:
    assert run.environment({"PYTHONPATH": "/a:/b", "X": "1"}) == {
        "PYTHONPATH": f"{ROOT / 'gradopt_ds/startup'}:/a:/b",
        "X": "1",
    }
    assert run.environment({})["PYTHONPATH"] == str(ROOT / "gradopt_ds/startup")


def test_the_folder_hides_no_module_of_a_script() -> None:
    names = {path.name for path in run.STARTUP.glob("*.py")}
    assert names == {"__init__.py", "sitecustomize.py"}


def test_the_command_takes_the_place_of_the_process() -> None:
    """Its arguments, output and exit status; a fork keeps pytest's own process."""
    assert SUBCOMMANDS["run"].module == "gradopt_ds.run"
    program = "import sys; from gradopt_ds.run import main; sys.exit(main(sys.argv[1:]))"
    command = ["sh", "-c", 'echo "$1 ${PYTHONPATH%%:*}"; exit 7', "sh", "--flag"]
    finished = subprocess.run(
        [sys.executable, "-c", program, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 7, finished.stderr
    assert finished.stdout.strip() == f"--flag {run.STARTUP}"


def test_a_command_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["no-such-command-here"]) == 127
    assert "no such command: no-such-command-here" in capsys.readouterr().err
