"""What the rules make of a model, in few rows: one for each kind of parameter."""

import re
from itertools import groupby

from torch import nn

from gradopt_ds import assign_rules
from gradopt_ds.matrices import Block

Row = dict[str, str]


def rows(model: nn.Module) -> list[Row]:
    """Return one row for parameters that differ only in the numbers of layers."""
    seen: dict[tuple[str, ...], Row] = {}
    for assignment in assign_rules(model).values():
        row = {
            "parameter": re.sub(r"(?<=\.)\d+(?=\.)", "*", assignment.name),
            "shape": "x".join(map(str, assignment.shape)),
            "rule": assignment.rule,
            "matrices": " + ".join(_counted([described(block) for block in assignment.blocks])),
            "reason": assignment.reason,
        }
        seen.setdefault(tuple(row.values()), row)
    return list(seen.values())


def described(block: Block) -> str:
    """Return the shapes of a block's matrices, and how they are interwoven."""
    shapes = ["x".join(map(str, shape)) for shape in block.shapes]
    if block.arrangement is None:
        return shapes[0]
    own, groups = block.arrangement, block.shapes[0][0] // block.arrangement.sizes[0]
    kind = "columns" if own.transposed else "rows"
    if len(shapes) == 1:
        return f"{shapes[0]} in {kind}"
    sizes = "+".join(map(str, own.sizes))
    where = f"{kind} {sizes}" if groups == 1 else f"{groups} groups of {kind} {sizes}"
    return f"({' + '.join(shapes)} in {where})"


def _counted(items: list[str]) -> list[str]:
    counted = [(item, len(list(alike))) for item, alike in groupby(items)]
    if len(items) > 4 and len(items) % 2 == 0 and len(counted) > 4:
        return [f"{len(items) // 2} * ({items[0]} + {items[1]})"]
    return [item if count == 1 else f"{count} * {item}" for item, count in counted]
