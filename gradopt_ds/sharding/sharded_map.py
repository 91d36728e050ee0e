"""The matrix map under ZeRO."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from gradopt_ds.matrices import MatrixRule, MatrixUpdates
from gradopt_ds.sharding.exchange import Exchange


class ShardedMatrixMap:
    """Every parameter is a flat slice with an exchange of its own.

    Args:
        exchanges: flat slice → its exchange. A contiguous tensor of any shape will do.
    """

    def __init__(self, exchanges: Mapping[Tensor, Exchange]) -> None:
        self.exchanges = dict(exchanges)

    def __call__(
        self, params: Sequence[Tensor], directions: Sequence[Tensor], rule: MatrixRule
    ) -> Iterator[MatrixUpdates]:
        """Yield the updates of this rank's slices (see :class:`gradopt_ds.ops.MatrixMap`).

        Raises:
            RuntimeError: a parameter is not one of the slices whose layout is known.
        """
        for param, direction in zip(params, directions, strict=True):
            if param not in self.exchanges:
                raise RuntimeError(
                    f"no layout is known for a flat slice of {param.numel()} elements: parameter "
                    "groups must not be added or replaced after deepspeed.initialize"
                )
            yield from self.exchanges[param](param, direction.reshape(-1), rule)
