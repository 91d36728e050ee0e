"""Arrangements: interwoven or transposed matrices in one block, and a rule on each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradopt_ds.matrices.row_shards import WHOLE, MatrixRule, RowShards


@dataclass(frozen=True)
class Arrangement:
    """How the outputs of a fused weight are dealt out to its matrices.

    The outputs, rows of a weight ``[outputs, inputs]``, come in equal groups, one after the other.
    In each group the first ``sizes[0]`` outputs are of the first matrix, the next ``sizes[1]`` of
    the second, and so on. GPT-NeoX has one group per head: ``sizes`` is three times the size of a
    head.

    Attributes:
        sizes: outputs of each matrix in a group.
        transposed: the weight is stored as ``[inputs, outputs]``.
    """

    sizes: tuple[int, ...]
    transposed: bool = False

    def shapes(self, rows: int, columns: int) -> tuple[tuple[int, int], ...]:
        """Return outputs and inputs of each matrix in a block of stored ``rows`` and ``columns``.

        Raises:
            ValueError: the outputs are not a number of whole groups.
        """
        outputs, inputs = (columns, rows) if self.transposed else (rows, columns)
        period = sum(self.sizes)
        if min(self.sizes, default=0) < 1 or not outputs or outputs % period:
            raise ValueError(f"{outputs} outputs are not groups of {list(self.sizes)}")
        return tuple((outputs // period * size, inputs) for size in self.sizes)

    def views(self, stored: Tensor) -> list[Tensor]:
        """Return views ``[..., groups, size, inputs]`` of the matrices in ``[..., m, n]``."""
        weight = stored.mT if self.transposed else stored
        return list(weight.unflatten(-2, (-1, sum(self.sizes))).split(list(self.sizes), dim=-2))


def apply_to_arranged(
    blocks: Sequence[Tensor], arrangement: Arrangement, rule: MatrixRule
) -> tuple[Tensor, Tensor]:
    """Apply a rule to each matrix in blocks of one shape, those of one shape together.

    Args:
        blocks: k blocks as they are stored, ``[m, n]``; they are read, never written.
        arrangement: of them all.
        rule: on ``[b, outputs, inputs]``.

    Returns:
        Directions ``[k, m, n]`` as the blocks are stored, and one scale per block ``[k]``: the
        largest of its matrices'; the ratio of each to it is in the directions.
    """
    parts = [arrangement.views(block) for block in blocks]
    updates: dict[int, tuple[Tensor, Tensor]] = {}
    # The largest first: what is left beside it when the others are worked on is the least.
    for size in sorted(set(arrangement.sizes), reverse=True):
        alike = [index for index, own in enumerate(arrangement.sizes) if own == size]
        stacked = torch.stack([views[index].flatten(0, 1) for index in alike for views in parts])
        directions, scales = rule(stacked, WHOLE)
        chunks = zip(directions.chunk(len(alike)), scales.chunk(len(alike)), strict=True)
        updates.update(zip(alike, chunks, strict=True))
    scales = torch.stack([updates[index][1] for index in range(len(updates))])
    largest = scales.nan_to_num(0.0, posinf=0.0).amax(dim=0)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    first = updates[0][0]
    result = torch.empty((len(blocks), *blocks[0].shape), dtype=first.dtype, device=first.device)
    for index, view in enumerate(arrangement.views(result)):
        ratios = (scales[index] / largest).to(first.dtype)
        view.copy_((updates[index][0] * ratios[:, None, None]).view(view.shape))
    return result, largest


def arranged(rule: MatrixRule, arrangement: Arrangement | None) -> MatrixRule:
    """Let a rule on matrices work on blocks ``[b, m, n]`` in which several are arranged."""
    if arrangement is None:
        return rule

    def rule_on_blocks(blocks: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
        return apply_to_arranged(blocks.unbind(), arrangement, rule)

    return rule_on_blocks
