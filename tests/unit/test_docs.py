"""What the pages say of the code is true of the code."""

import ast
import re
from pathlib import Path

import pytest
import torch

import gradopt_ds
from gradopt_ds.integration import registry
from scripts.draw_exchange import FOLDER, draw
from tests.conftest import ROOT
from tests.distributed import memory_cases
from tests.distributed.cases import CASES

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "gradopt_ds").rglob("*.md")]
POINTER = re.compile(r"\[`((?!\w+\.py`)[\w.]+)`\]\(([^)]+\.py)\)")
"""A link from a name in code to the file that defines it."""


def definitions(path: Path) -> set[str]:
    """Functions, classes and, with their class's name before them, methods of a file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    tree = ast.parse(path.read_text())
    outer = [node for node in tree.body if isinstance(node, kinds)]
    inner = [
        f"{cls.name}.{node.name}" for cls in outer for node in cls.body if isinstance(node, kinds)
    ]
    return {node.name for node in outer} | set(inner)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_linked_functions_are_defined_where_the_link_leads(page: Path) -> None:
    for name, target in POINTER.findall(page.read_text()):
        assert name in definitions((page.parent / target).resolve()), (name, target)


def test_there_are_such_links() -> None:
    assert len(POINTER.findall((ROOT / "docs" / "exchange.md").read_text())) > 20


def test_the_pages_count_the_cases() -> None:
    exactness = (ROOT / "docs" / "zero.md").read_text()
    assert f"in {len(CASES)} configurations" in exactness
    memory = (ROOT / "docs" / "measurements" / "memory.md").read_text()
    assert f"builds {sum(map(len, memory_cases.CASES.values()))} engines" in memory


def test_pictures_of_the_exchange_are_drawn_from_the_planner() -> None:
    for name, drawing in draw().items():
        assert (FOLDER / name).read_text() == drawing, "run python scripts/draw_exchange.py"


def test_the_optimizer_in_contributing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step is along the polar factor, and the JSON knows its name."""
    monkeypatch.setattr(registry, "OPTIMIZERS", dict(registry.OPTIMIZERS))
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(example, names)
    weight = torch.nn.Parameter(torch.zeros(3, 5))
    groups = [{"params": [weight], "rule": "matrix"}]
    optimizer = names["SpectralDescent"](groups, lr=0.5, oracle="svd")
    weight.grad = torch.randn(3, 5)
    left, _, right = torch.linalg.svd(weight.grad.double(), full_matrices=False)
    optimizer.step()
    torch.testing.assert_close(weight.detach().double(), -0.5 * left @ right, atol=1e-6, rtol=0)
    assert registry.canonical_name("spectraldescent") == "SpectralDescent"
    assert issubclass(names["SpectralDescent"], gradopt_ds.MatrixOptimizer)
