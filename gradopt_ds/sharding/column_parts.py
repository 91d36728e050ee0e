"""Matrices that tensor parallelism has cut by columns: from their parts to their shape and back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradopt_ds.matrices import MatrixRule, RowShards


def on_parts(rule: MatrixRule, widths: Sequence[int]) -> MatrixRule:
    """Let a rule on whole matrices work on matrices that come in parts of their columns.

    Args:
        rule: on ``[b, m, n]``.
        widths: columns of each part; n in all.

    Returns:
        The rule on ``[b, m * n]``, the flattened parts one after the other; its directions too.
    """

    def rule_on_parts(flat: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
        directions, scales = rule(torch.cat(_parts(flat, widths), dim=2), across)
        result = torch.empty(flat.shape, dtype=directions.dtype, device=directions.device)
        torch._foreach_copy_(_parts(result, widths), directions.split(list(widths), dim=2))
        return result, scales

    return rule_on_parts


def _parts(flat: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Return the parts ``[b, m, width]``, as views."""
    rows = flat.shape[1] // sum(widths)
    parts = flat.split([rows * width for width in widths], dim=1)
    return [part.unflatten(1, (rows, width)) for part, width in zip(parts, widths, strict=True)]
