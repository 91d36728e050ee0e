"""SinkGD: SGD whose gradient has its rows and columns normalised in turn; no optimizer state."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from gradopt_ds.matrices import RowShards
from gradopt_ds.ops import AlternatingNorms
from gradopt_ds.optim.matrix_optimizer import MatrixOptimizer
from gradopt_ds.optim.settings import Aux, AuxAdamW, NonNegative, ParamGroups, Positive, checked


class SinkGD(MatrixOptimizer):
    r"""Stateless steps along the gradient with equal row norms and equal column norms.

    .. math::
        \Delta = G; \quad L\text{ times}\quad
        \Delta_{i,:} \leftarrow \sqrt n\,\Delta_{i,:}/\|\Delta_{i,:}\|,\quad
        \Delta_{:,j} \leftarrow \sqrt m\,\Delta_{:,j}/\|\Delta_{:,j}\|; \qquad
        X \leftarrow (1 - \eta\lambda)X - \eta\alpha\Delta

    Source: arXiv 2502.06742, Algorithms 1 and 2. No eigenproblem and no product of matrices.

    Args:
        params: groups from :func:`gradopt_ds.optim.matrix_param_groups`.
        lr: learning rate eta.
        alpha: factor of the matrix updates alone.
        iterations: L, how often rows and columns are normalised.
        weight_decay: decoupled weight decay lambda of the matrices.
        aux: settings of the auxiliary AdamW.
        stochastic_rounding: round bfloat16 weights up or down at random, so that steps below their
            resolution are not lost. Wider weights, as ZeRO's fp32 masters, do not need it.

    Raises:
        ValueError: a group does not say its rule.
        pydantic.ValidationError: a setting has the wrong type or is out of range.
    """

    @checked
    def __init__(
        self,
        params: ParamGroups,
        lr: Positive = 0.02,
        alpha: Positive = 0.05,
        iterations: Annotated[int, Field(ge=1)] = 5,
        weight_decay: NonNegative = 0.0,
        aux: Aux = AuxAdamW(),  # noqa: B008  (immutable)
        stochastic_rounding: bool = False,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "weight_decay": weight_decay}
        rule = AlternatingNorms(iterations=iterations)
        super().__init__(params, defaults, rule, aux, stochastic_rounding)

    def relative_step(self, rows: int, columns: int, group: Mapping[str, Any]) -> float:
        """``alpha``, for any shape: see :meth:`MatrixOptimizer.relative_step`."""
        return float(group["alpha"])

    def _matrix_rule(
        self, matrices: Tensor, across: RowShards, group: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        directions = self.oracle(matrices, across)
        return directions, directions.new_full(matrices.shape[:1], group["alpha"])
