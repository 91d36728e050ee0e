"""Counts below one and outputs that are files end in one line and exit status 2."""

import runpy
import sys
from pathlib import Path

import pytest

from gradopt_ds import command
from tests.conftest import ROOT


def ended(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    try:
        return int(runpy.run_path(str(ROOT / "scripts" / script))["main"]())
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        ("matrix_problems.py", "--steps"),
        ("matrix_problems.py", "--processes"),
        ("compare.py", "--ranks"),
        ("compare.py", "--jobs"),
    ],
)
def test_counts_are_at_least_one(
    script: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(script, [flag, "-1"], monkeypatch) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith(f"error: argument {flag}: -1 is less than 1")


@pytest.mark.parametrize("script", ["matrix_problems.py", "compare.py"])
def test_an_output_that_is_a_file_is_named(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert ended(script, ["--output", str(tmp_path / "taken")], monkeypatch) == 2
    assert capsys.readouterr().err.startswith(f"error: --output {tmp_path / 'taken'} cannot be")


@pytest.mark.parametrize(
    "words",
    [["plan", "--model", "tiny", "--ranks", "2"], ["memory", "estimate", "--model", "tiny"]],
)
def test_an_output_of_a_subcommand_that_is_a_file_is_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    assert command.main([*words, "--output", str(tmp_path / "taken")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output {tmp_path / 'taken'} cannot be")
