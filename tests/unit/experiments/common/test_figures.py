"""Figures need no screen and leave nothing behind."""

import struct
import subprocess
import sys
from pathlib import Path

from gradopt_ds.experiments.common import figures


def size(png: Path) -> tuple[int, ...]:
    """Width and height, where the PNG standard puts them: bytes 16 to 24, big-endian."""
    return struct.unpack(">II", png.read_bytes()[16:24])


def test_a_figure_is_written_as_png(tmp_path: Path) -> None:
    figure, panels = figures.panels(2, size=(5, 2), sharey=True)
    first, second = panels
    first.plot([0, 1], [0, 7])
    assert second.get_ylim() == first.get_ylim()
    path = tmp_path / "new" / "llama_1.3b.x"
    figures.save(figure, path, below=0.2)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert size(path) == (600, 240)
    # The panels end above the part that is kept free.
    assert first.get_position().y0 > 0.2


def test_colours_are_distinct_and_begin_again_after_twenty() -> None:
    names = [str(i) for i in range(23)]
    for count in (3, 10, 20):
        assert len(set(figures.colours(names[:count]).values())) == count
    assert len(set(figures.colours(names).values())) == 20
    # Matplotlib's own first colour, #1f77b4.
    red, green, blue, _ = figures.colours(["a"])["a"]
    assert [round(255 * part) for part in (red, green, blue)] == [0x1F, 0x77, 0xB4]


def test_matplotlib_is_not_imported_before_a_figure_is_made() -> None:
    code = (
        "import sys; from gradopt_ds.experiments.common import figures;"
        "assert 'matplotlib' not in sys.modules; figures.panels(1, (2, 2));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
