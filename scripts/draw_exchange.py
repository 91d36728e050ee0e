"""Draws the pictures of docs/exchange.md from a real layout and plan of three ranks."""

from collections.abc import Iterator
from pathlib import Path

from gradopt_ds.ops import make_oracle
from gradopt_ds.sharding import Matrix, Plan, contiguous_layout, make_plan

FOLDER = Path(__file__).parent.parent / "docs" / "images"
RANKS = 3
SLICE = 20
MATRICES = (Matrix("q", 3, 4), Matrix("k", 6, 6), Matrix("v", 3, 4))
OFFSETS = (0, 12, 48)
CUT = 1
"""Index of k, the matrix that lies on all three ranks."""

WIDTH = 640
LEFT = 76
CELL = 27
OF_MATRIX = ("#c9d6ea", "#f2b880", "#cfe3c8")
OF_RANK = ("#f7d9b5", "#ee9f54", "#c96f1e")
INK = "#222222"


def plan_of_example() -> Plan:
    """Return the plan that the planner makes of ZeRO 2's layout of the three matrices."""
    layout = contiguous_layout(MATRICES, OFFSETS, SLICE, RANKS)
    return make_plan(layout, make_oracle("newton_schulz"))


def text(x: float, y: float, words: str, size: int = 20, anchor: str = "start") -> str:
    """Write a line of text whose baseline begins, or is centred, at x, y."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{INK}">{words}</text>'
    )


def box(x: float, y: float, width: float, height: float, fill: str, edge: float = 0.7) -> str:
    """Draw a filled rectangle with an edge."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" '
        f'stroke="{INK}" stroke-width="{edge:g}"/>'
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Draw a line that ends in a head."""
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{INK}" '
        'stroke-width="1.6" marker-end="url(#head)"/>'
    )


def picture(height: int, title: str, parts: Iterator[str]) -> str:
    """Write an SVG on a white ground, so that it can be read on dark pages too."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'width="{WIDTH}" font-family="sans-serif">',
            f"<title>{title}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker>'
            "</defs>",
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def slices(plan: Plan) -> Iterator[str]:
    """Draw every rank's flat slice, element by element, and the cut matrix with its holders."""
    layout = plan.layout
    for rank in range(RANKS):
        top = 40 + 62 * rank
        yield text(8, top + 20, f"rank {rank}")
        for index, matrix in enumerate(layout.matrices):
            if (piece := layout.piece(index, rank)) is None:
                continue
            for element in range(piece.length):
                left = LEFT + CELL * (piece.slice_start + element)
                yield box(left, top, CELL, CELL, OF_MATRIX[index])
            middle = LEFT + CELL * (piece.slice_start + piece.length / 2)
            label = f"{matrix.name}[{piece.matrix_start}:{piece.matrix_stop}]"
            yield box(middle - 44, top + 3, 88, CELL - 6, OF_MATRIX[index], edge=0)
            yield text(middle, top + 20, label, anchor="middle")
    yield text(8, 24, "Three flat slices of 20 elements")
    yield from _grid(plan, 250)


def _grid(plan: Plan, top: int) -> Iterator[str]:
    matrix = plan.layout.matrices[CUT]
    yield text(8, top, f"k, {matrix.rows} × {matrix.columns}: the cuts go through its rows")
    for piece in plan.layout.pieces(CUT):
        for element in range(piece.matrix_start, piece.matrix_stop):
            row, column = divmod(element, matrix.columns)
            left, upper = LEFT + CELL * column, top + 14 + CELL * row
            yield box(left, upper, CELL, CELL, OF_RANK[piece.rank])
            yield text(left + CELL / 2, upper + 19, str(element), 15, "middle")
        owner = ", the owner" if plan.owners[CUT] == piece.rank else ""
        upper = top + 30 + 50 * piece.rank
        yield box(LEFT + 200, upper, 20, 20, OF_RANK[piece.rank])
        yield text(LEFT + 230, upper + 16, f"rank {piece.rank}: {piece.length} elements{owner}")


def step(plan: Plan) -> Iterator[str]:
    """Draw one step of the cut matrix: pieces to the owner, the rule, updates back."""
    owner = plan.owners[CUT]
    for column, words in ((150, "gather"), (330, "rule"), (510, "scatter")):
        yield text(column, 26, words, 22, "middle")
    for rank in range(RANKS):
        middle = 80 + 90 * rank
        piece = plan.layout.piece(CUT, rank)
        assert piece is not None
        yield text(8, middle + 6, f"rank {rank}")
        for left in (90, 540):
            yield box(left, middle - 14, 40, 28, OF_RANK[rank])
            yield text(left + 20, middle + 6, str(piece.length), 19, "middle")
        if rank != owner:
            target = 80 + 90 * owner + (-18 if rank < owner else 18)
            yield arrow(132, middle, 276, target)
            yield arrow(388, target, 536, middle)
            beside = middle + (-10 if rank < owner else 24)
            yield text(200, beside, f"{piece.length} elements", 18, "middle")
            yield text(465, beside, f"{piece.length} + scale", 18, "middle")
    middle = 80 + 90 * owner
    yield box(280, middle - 42, 104, 84, OF_MATRIX[CUT])
    yield text(332, middle - 6, "k whole", 19, "middle")
    yield text(332, middle + 18, "→ update", 19, "middle")
    yield arrow(132, middle, 276, middle)
    yield arrow(388, middle, 536, middle)


ON_THE_WIRE = (
    (0.0, 2.0, "pieces 0"),
    (2.4, 2.0, "pieces 1"),
    (5.0, 2.0, "updates 0"),
    (8.2, 2.0, "updates 1"),
)
COMPUTED = (
    (0.0, 2.0, "whole\nmatrices"),
    (2.4, 2.6, "round 0"),
    (5.9, 2.3, "round 1"),
)
APPLIED = (
    (0.2, 1.9, "whole\nmatrices"),
    (5.0, 0.9, "kept\n0"),
    (8.2, 1.9, "received 0,\nkept 1"),
    (10.2, 1.0, "rec.\n1"),
)


def timeline(plan: Plan) -> Iterator[str]:
    """Draw two rounds on one rank, in the order of ``Exchange.__call__``."""
    unit = (WIDTH - 100) / 11.2
    lanes = (
        ("wire", ON_THE_WIRE, "#dddddd"),
        ("rule", COMPUTED, OF_MATRIX[CUT]),
        ("apply", APPLIED, OF_MATRIX[2]),
    )
    for lane, (name, blocks, fill) in enumerate(lanes):
        top = 12 + 66 * lane
        yield text(8, top + 33, name)
        for start, length, words in blocks:
            yield box(LEFT + unit * start, top, unit * length, 52, fill)
            lines = words.split("\n")
            for line, part in enumerate(lines):
                baseline = top + 32 + (line * 2 - len(lines) + 1) * 11
                yield text(LEFT + unit * (start + length / 2), baseline, part, 17, "middle")
    yield arrow(LEFT, 222, WIDTH - 14, 222)
    yield text(WIDTH - 14, 246, "time", 18, "end")


PICTURES = {
    "exchange_slices.svg": (450, "Slices of three ranks and the pieces of one cut matrix", slices),
    "exchange_step.svg": (310, "Pieces go to the owner, updates come back", step),
    "exchange_rounds.svg": (256, "Two rounds: what travels while what is computed", timeline),
}


def draw() -> dict[str, str]:
    """Draw all of them: file name → SVG."""
    plan = plan_of_example()
    return {
        name: picture(height, title, parts(plan))
        for name, (height, title, parts) in PICTURES.items()
    }


if __name__ == "__main__":
    for name, drawing in draw().items():
        (FOLDER / name).write_text(drawing)
        print(FOLDER / name)
