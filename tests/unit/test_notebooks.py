"""The notebooks run, and print what they show but for digits."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell of code printed, numbers as #."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = ["".join(output["text"] for output in cell.outputs) for cell in cells]
    return [" ".join(re.sub(r"\d[\d.e+-]*", "#", text).split()) for text in outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path) -> None:
    notebook = nbformat.read(path, as_version=4)
    shown = printed(notebook)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert printed(notebook) == shown
