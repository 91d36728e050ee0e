"""What the exchange of matrices that tensor parallelism has cut occupies: by its plan."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from gradopt_ds.integration.parallel.layout_on_paper import tensor_layout
from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.matrices import Block
from gradopt_ds.memory.setup import Setup
from gradopt_ds.optim import MatrixOptimizer
from gradopt_ds.sharding import Layout, Plan, make_plan
from gradopt_ds.sharding.plan import COPIES, ELEMENT_BYTES


def tensor_exchange_bytes(
    base: MatrixOptimizer,
    blocks: Mapping[Tensor, Sequence[Block]],
    cuts: Mapping[Tensor, TensorCut],
    setup: Setup,
) -> int:
    """Count the bytes of exchange and rule on the rank that needs most, at most.

    Args:
        base: the optimizer.
        blocks: parameters of one of its groups → the matrices in them, whole.
        cuts: how tensor parallelism has cut the parameters.
        setup: stages 0 to 2.
    """
    plans = [
        make_plan(layout, base.oracle, base.exchange) for layout in _layouts(blocks, cuts, setup)
    ]
    return max(_peak_bytes(plan, rank) for plan in plans for rank in range(plan.layout.world_size))


def _layouts(
    blocks: Mapping[Tensor, Sequence[Block]], cuts: Mapping[Tensor, TensorCut], setup: Setup
) -> Iterator[Layout]:
    named = {str(index): param for index, param in enumerate(blocks)}
    inside = {name: blocks[param] for name, param in named.items()}
    by_name = {name: cuts[param] for name, param in named.items()}
    if setup.stage > 0:
        yield tensor_layout(inside, by_name, setup.tensor_parallel, setup.ranks)
        return
    # Parameters are stepped on one after the other, by each data-parallel rank alike.
    for name, own in inside.items():
        yield tensor_layout({name: own}, by_name, setup.tensor_parallel, 1)


def _peak_bytes(plan: Plan, rank: int) -> int:
    # Matrices that lie whole on a rank are worked on while the first pieces travel.
    local = sum(piece.length for piece in plan.local(rank))
    return plan.peak_bytes(rank) + COPIES * ELEMENT_BYTES * local
