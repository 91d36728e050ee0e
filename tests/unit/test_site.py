"""The site builds; broken links, anchors and references are errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_pages_stand_where_links_expect_them(site: Path) -> None:
    for page in ("", "docs/tutorial", "docs/exchange", "gradopt_ds/sharding", "CONTRIBUTING"):
        assert (site / page / "index.html").is_file(), page


def test_linked_code_is_shown(site: Path) -> None:
    page = (site / "gradopt_ds" / "sharding" / "transfer.py" / "index.html").read_text()
    assert "all_to_all_single" in page


def test_formulas_of_docstrings_are_drawn(site: Path) -> None:
    page = (site / "docs" / "reference" / "optimizers" / "index.html").read_text()
    assert "<math" in page and ".. math::" not in page and ":class:" not in page


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text()
        )
        assert not loaded, (page, loaded)
