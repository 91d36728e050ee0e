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

from gradopt_ds.matrices.arrangement import Arrangement, apply_to_arranged
from gradopt_ds.matrices.blocks import Block
from gradopt_ds.matrices.row_shards import WHOLE, MatrixRule

BATCH_ELEMENTS = 2**24
"""Most elements in one batched call: 64 MiB of float32, so that batching equal shapes never
multiplies the working set of the largest matrix by the number of layers."""


@dataclass(frozen=True)
class MatrixUpdates:
    """The updates of some matrices, at least one, or of the parts of them that a rank holds.

    They come together so that they can be applied together: with a number of operations that does
    not grow with the number of matrices.

    Attributes:
        params: for each update the parameter, or the flat slice, that it belongs to.
        directions: the rule's directions, in the shapes of ``parts_of``. Owned by the receiver.
        scales: ``[k]``, the factors of the k directions.
        where: the elements of each flattened parameter; ``None`` when it is all of the parameter.
    """

    params: Sequence[Tensor]
    directions: list[Tensor] | tuple[Tensor, ...]
    scales: Tensor
    where: Sequence[slice | None]

    def parts_of(self, like_param: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Return the parts that are updated.

        Args:
            like_param: parameter → a tensor laid out like it: its momentum, or the weight itself.
        """
        # `view` and not `flatten`: where that would have to copy, the update would be lost.
        return [
            like_param(param) if where is None else like_param(param).view(-1)[where]
            for param, where in zip(self.params, self.where, strict=True)
        ]


class MatrixMap(Protocol):
    """Applies a rule to every matrix that lies in the given parameters.

    The iterator must be exhausted: other ranks may be waiting for this one.
    """

    def __call__(
        self, params: Sequence[Tensor], directions: Sequence[Tensor], rule: MatrixRule
    ) -> Iterator[MatrixUpdates]:
        """Yield the updates of every matrix in ``params``, in any order."""
        ...


def map_equal_shapes(
    matrices: Sequence[Tensor],
    rule: MatrixRule,
    arrangements: Sequence[Arrangement | None] | None = None,
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Apply ``rule`` to matrices of any shapes, those of one shape together.

    Args:
        matrices: 2-D tensors; they are read, never written.
        rule: the batched rule.
        arrangements: for each of ``matrices`` that is several, how they lie in it.

    Yields:
        ``(k indices, directions [k, m, n], scales [k])`` for every batch.
    """
    by_shape: dict[tuple[torch.Size, torch.dtype, Arrangement | None], list[int]] = {}
    for index, matrix in enumerate(matrices):
        arrangement = arrangements[index] if arrangements else None
        by_shape.setdefault((matrix.shape, matrix.dtype, arrangement), []).append(index)
    for (shape, _, arrangement), indices in by_shape.items():
        per_batch = max(1, BATCH_ELEMENTS // max(1, shape.numel()))
        for first in range(0, len(indices), per_batch):
            batch = indices[first : first + per_batch]
            members = [matrices[i] for i in batch]
            if arrangement is None:
                # One matrix, the largest as a rule, need not be copied to become a batch.
                stacked = torch.stack(members) if len(members) > 1 else members[0][None]
                yield batch, *rule(stacked, WHOLE)
            else:
                yield batch, *apply_to_arranged(members, arrangement, rule)


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
    ) -> Iterator[MatrixUpdates]:
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
        arrangements = [block.arrangement for _, block in places]
        for batch, results, scales in map_equal_shapes(matrices, rule, arrangements):
            members = [places[index] for index in batch]
            alone = [(block.rows, block.columns) == param.shape for param, block in members]
            yield MatrixUpdates(
                [param for param, _ in members],
                [d if whole else d.flatten() for d, whole in zip(results, alone, strict=True)],
                scales,
                [None if whole else b.where for (_, b), whole in zip(members, alone, strict=True)],
            )
