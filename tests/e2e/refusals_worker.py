"""Runs ``scripts/pretrain.py`` in this process once per command line of a JSON file."""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

from tests.conftest import ROOT


def ended(main: object, arguments: list[str]) -> dict[str, object]:
    """Exit status and standard error of one command line."""
    sys.argv = ["pretrain.py", *arguments]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        status = main()  # type: ignore[operator]
    return {"status": status, "stderr": errors.getvalue()}


if __name__ == "__main__":
    lines, results = map(Path, sys.argv[1:])
    commands = json.loads(lines.read_text())
    main = runpy.run_path(str(ROOT / "scripts/pretrain.py"))["main"]
    found = {name: ended(main, line) for name, line in commands.items()}
    results.write_text(json.dumps(found))
