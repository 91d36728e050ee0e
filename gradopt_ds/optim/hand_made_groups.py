"""Which matrices lie in a parameter group that a user has made by hand."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from gradopt_ds.matrices import Block
from gradopt_ds.optim.facts import whole_shape
from gradopt_ds.optim.param_groups import AUX, Assignment, Rule
from gradopt_ds.optim.splits import blocks_of


def assignments_by_hand(
    params: Sequence[Tensor], rule: Rule, blocks: Iterable[Iterable[Block]] | None
) -> dict[Tensor, Assignment]:
    """Make the assignments of a group that was not made from a model.

    Args:
        params: of the group.
        rule: of all of them.
        blocks: the matrices in each; without it every parameter is one matrix.

    Raises:
        ValueError: it is not known which matrices lie in a parameter.
    """
    if rule == AUX:
        own: list[tuple[Block, ...]] = [()] * len(params)
    else:
        own = [tuple(b) for b in blocks] if blocks else [_one_matrix(param) for param in params]
    return {
        param: Assignment("", whole_shape(param), rule, "in a parameter group made by hand", blocks)
        for param, blocks in zip(params, own, strict=True)
    }


def _one_matrix(param: Tensor) -> tuple[Block, ...]:
    if len(shape := whole_shape(param)) != 2:
        raise ValueError(
            f"which matrices lie in a parameter of shape {shape}? Groups from "
            "gradopt_ds.matrix_param_groups(model) say so; others need the key 'blocks'"
        )
    return blocks_of(shape)
