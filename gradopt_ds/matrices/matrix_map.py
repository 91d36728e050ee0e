"""From parameters to whole matrices and back: the contract between optimizers and layouts.

An optimizer hands over one direction per parameter (its gradient or momentum) and a rule for
whole matrices. A *matrix map* finds the matrices in those directions, applies the rule, and
yields the updates where they belong. With whole parameters that is a loop over shapes (here);
under ZeRO it is an exchange between ranks (``gradopt_ds.sharding``). The optimizer does not know
which of the two it has.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gradopt_ds.matrices.blocks import Block
from gradopt_ds.matrices.row_shards import WHOLE, RowShards

MatrixRule = Callable[[Tensor, RowShards], tuple[Tensor, Tensor]]
"""``[b, m, n]`` and where rows that are not among the m are → directions ``[b, m, n]`` and one
scale per matrix ``[b]``."""

BATCH_ELEMENTS = 2**24
"""Most elements in one batched call: 64 MiB of float32, so that batching equal shapes never
multiplies the working set of the largest matrix by the number of layers."""


@dataclass(frozen=True)
class MatrixUpdate:
    """The update of one matrix, or of the part of it that a rank holds.

    Attributes:
        param: the parameter, or the flat slice, that the update belongs to.
        direction: the rule's direction, in the shape of ``target(param)``. Owned by the receiver.
        scale: 0-d factor of the direction.
        where: the elements of the flattened ``param``; ``None`` when it is all of ``param``.
    """

    param: Tensor
    direction: Tensor
    scale: Tensor
    where: slice | None = None

    def target(self, like_param: Tensor) -> Tensor:
        """Return the updated part of a tensor laid out like ``param`` (weights, momentum)."""
        # `view` and not `flatten`: where that would have to copy, the update would be lost.
        return like_param if self.where is None else like_param.view(-1)[self.where]


class MatrixMap(Protocol):
    """Applies a rule to every matrix that lies in the given parameters.

    The iterator must be exhausted: other ranks may be waiting for this one.
    """

    def __call__(
        self, params: Sequence[Tensor], directions: Sequence[Tensor], rule: MatrixRule
    ) -> Iterator[MatrixUpdate]:
        """Yield the updates of every matrix in ``params``, in any order."""
        ...


def map_equal_shapes(
    matrices: Sequence[Tensor], rule: MatrixRule
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Apply ``rule`` to matrices of any shapes, those of one shape together.

    Args:
        matrices: 2-D tensors; they are read, never written.
        rule: the batched rule.

    Yields:
        ``(index, direction [m, n], scale [])`` for every matrix, batch by batch.
    """
    by_shape: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault((matrix.shape, matrix.dtype), []).append(index)
    for (shape, _), indices in by_shape.items():
        per_batch = max(1, BATCH_ELEMENTS // max(1, shape.numel()))
        for first in range(0, len(indices), per_batch):
            batch = indices[first : first + per_batch]
            members = [matrices[i] for i in batch]
            # One matrix, the largest as a rule, need not be copied to become a batch.
            stacked = torch.stack(members) if len(members) > 1 else members[0][None]
            directions, scales = rule(stacked, WHOLE)
            yield from zip(batch, directions, scales, strict=True)


class WholeMatrixMap:
    """The matrix map of a process that holds every matrix whole (see :class:`MatrixMap`).

    Args:
        blocks: parameter → the matrices that lie in it. Read at every step, so that parameters may
            be added.
    """

    def __init__(self, blocks: Mapping[Tensor, Sequence[Block]]) -> None:
        self.blocks = blocks

    def __call__(
        self, params: Sequence[Tensor], directions: Sequence[Tensor], rule: MatrixRule
    ) -> Iterator[MatrixUpdate]:
        """Yield the updates of every matrix in ``params``.

        Raises:
            RuntimeError: it is not known which matrices lie in a parameter; it may be a flat slice
                whose layout was not given.
        """
        places: list[tuple[Tensor, Block]] = []
        matrices: list[Tensor] = []
        for param, direction in zip(params, directions, strict=True):
            if param not in self.blocks:
                raise RuntimeError(
                    f"expected a parameter with known matrices, got one of shape "
                    f"{tuple(param.shape)}. Under DeepSpeed this is a flat ZeRO slice: `import "
                    "gradopt_ds` must run before `deepspeed.initialize`, so that the optimizer is "
                    "given the places of its matrices."
                )
            flat = direction.reshape(-1)
            for block in self.blocks[param]:
                places.append((param, block))
                matrices.append(flat[block.where].view(block.rows, block.columns))
        for index, direction, scale in map_equal_shapes(matrices, rule):
            param, block = places[index]
            if direction.shape == param.shape:
                yield MatrixUpdate(param, direction, scale)
            else:
                yield MatrixUpdate(param, direction.flatten(), scale, block.where)
