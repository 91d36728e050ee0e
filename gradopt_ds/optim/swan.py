"""SWAN: SGD whose gradient is normalised and whitened; no optimizer state."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradopt_ds.matrices import RowShards
from gradopt_ds.ops import Oracle, whitened
from gradopt_ds.optim.matrix_optimizer import MatrixOptimizer
from gradopt_ds.optim.settings import Aux, AuxAdamW, NonNegative, ParamGroups, Positive, checked


class SWAN(MatrixOptimizer):
    r"""Stateless steps along the whitened gradient of each matrix.

    .. math::
        \hat G = \mathrm{GradNorm}(G), \quad W = (\hat G\hat G^\top)^{-1/2}\hat G, \quad
        X \leftarrow (1 - \eta\lambda)X - \eta\alpha\frac{\sqrt{mn}}{\|W\|_F}W

    Source: arXiv 2412.13148, Algorithm 1 and section 4; the last factor gives the step the
    Frobenius norm of a matrix of unit entries.

    Args:
        params: groups from :func:`gradopt_ds.optim.matrix_param_groups`.
        lr: learning rate eta.
        alpha: factor of the matrix updates alone.
        weight_decay: decoupled weight decay lambda of the matrices.
        oracle: how the whitening is computed: a name in :data:`gradopt_ds.ops.ORACLES`, or a
            mapping ``{"type": name, **options}``.
        aux: settings of the auxiliary AdamW.
        stochastic_rounding: round bfloat16 weights up or down at random, so that steps below their
            resolution are not lost. Wider weights, as ZeRO's fp32 masters, do not need it.

    Raises:
        ValueError: a group does not say its rule; a matrix with a single column; an unknown
            oracle.
        pydantic.ValidationError: a setting has the wrong type or is out of range.
    """

    @checked
    def __init__(
        self,
        params: ParamGroups,
        lr: Positive = 0.02,
        alpha: Positive = 0.05,
        weight_decay: NonNegative = 0.0,
        oracle: str | dict[str, Any] | Oracle = "polar_express",
        aux: Aux = AuxAdamW(),  # noqa: B008  (immutable)
        stochastic_rounding: bool = False,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "weight_decay": weight_decay}
        super().__init__(params, defaults, oracle, aux, stochastic_rounding)

    def _check_matrix(self, rows: int, columns: int) -> None:
        if columns == 1:
            raise ValueError(
                f"SWAN would never move a matrix of {rows} rows and 1 column: GradNorm "
                "subtracts the mean of each row, which leaves nothing of a single entry. Leave it "
                "to the auxiliary AdamW (name it in `exclude`, and neither in `include` nor in "
                "`split`), or take SinkGD or PolarGrad"
            )

    def relative_step(self, rows: int, columns: int, group: Mapping[str, Any]) -> float:
        """``alpha``, for any shape: see :meth:`MatrixOptimizer.relative_step`."""
        return float(group["alpha"])

    def _matrix_rule(
        self, matrices: Tensor, across: RowShards, group: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        directions, factors = whitened(matrices, self.oracle, across)
        return directions, factors * group["alpha"]
