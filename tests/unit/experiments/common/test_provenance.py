"""Every JSON says where it comes from."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch

from gradopt_ds.experiments.common import provenance

CPUINFO = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model\t\t: 17
model name\t: AMD EPYC 9354P: 32-Core
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_command_is_one_that_a_shell_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [os.path.abspath("scripts/plan.py"), "--include", "a *,b"])
    assert provenance.provenance()["command"] == "scripts/plan.py --include 'a *,b'"


def test_versions_machine_and_date() -> None:
    facts = provenance.provenance()
    assert list(facts) == ["command", "date", "commit", "versions", "machine"]
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    age = datetime.now(timezone.utc) - datetime.fromisoformat(facts["date"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    machine = facts["machine"]
    assert machine["cores"] == os.cpu_count()
    assert isinstance(machine["native_bfloat16"], bool)
    assert len(machine["gpus"]) == torch.cuda.device_count()
    assert machine["cpu"]


def test_the_cpu_s_name() -> None:
    assert provenance.cpu_model(CPUINFO) == "AMD EPYC 9354P: 32-Core"
    assert provenance.cpu_model("processor\t: 0\n")  # an ARM's file has no name


def test_the_commit_is_that_of_the_code(tmp_path: Path) -> None:
    """With ``-dirty`` after a change; none for a package installed below another repository."""
    git(tmp_path, "init", "--quiet")
    code, other = tmp_path / "code.py", tmp_path / "installed" / "package.py"
    other.parent.mkdir()
    code.write_text("1")
    other.write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "m")
    git(tmp_path, "tag", "-a", "v1", "-m", "m")
    head = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert provenance.commit(code) == head
    code.write_text("2")
    assert provenance.commit(code) == f"{head}-dirty"
    assert provenance.commit(other) is None


def test_a_json_has_the_facts_after_their_origin(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    provenance.write_json(path, {"rows": [{"a": 1}]})
    written = json.loads(path.read_text())
    assert list(written)[-1] == "rows" and written["rows"] == [{"a": 1}]
    assert written["machine"]["cores"] == os.cpu_count()


def test_a_fact_does_not_replace_its_origin(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.json: command, machine is part of the provenance"):
        provenance.write_json(tmp_path / "x.json", {"machine": 1, "command": 2, "rows": []})
    assert not (tmp_path / "x.json").exists()
