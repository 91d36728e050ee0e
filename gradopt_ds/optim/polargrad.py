"""PolarGrad and Muon: steps along the polar factor of the momentum."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from gradopt_ds.matrices import MatrixUpdates, RowShards
from gradopt_ds.ops import Oracle, nuclear_norm
from gradopt_ds.optim.matrix_optimizer import MatrixOptimizer
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.optim.settings import (
    ADAMW_STEP,
    Aux,
    AuxAdamW,
    Decay,
    NonNegative,
    ParamGroups,
    Positive,
    UnitInterval,
    checked,
)

MomentumOrder = Literal["momentum_first", "polar_first"]
Scale = Literal["nuclear", "none", "spectral", "rms"]


class PolarGrad(MatrixOptimizer):
    r"""The polar factor of the momentum, scaled by its nuclear norm.

    Momentum first (with :math:`M = UH` the polar decomposition):

    .. math::
        M \leftarrow \beta M + (1-\beta)G, \quad
        X \leftarrow (1 - \eta\lambda)X - \eta\,\|M\|_*^a\,U

    Polar first (with :math:`G = UH`):

    .. math::
        M \leftarrow \beta M + (1-\beta)U, \quad
        X \leftarrow (1 - \eta\lambda)X - \eta\,\|G\|_*^a\,M

    Source: arXiv 2505.21799, Algorithms 1-3. With the nuclear norm the learning rate has units
    of inverse curvature: it does not carry over between model sizes, nor from Muon.

    Args:
        params: groups from :func:`gradopt_ds.optim.matrix_param_groups`.
        lr: learning rate eta.
        momentum: decay rate beta of the moving average; 0 keeps no state.
        momentum_order: whether the average is over gradients or over polar factors.
        nesterov: look ahead with ``(1 - beta) G + beta M`` (momentum first only).
        scale: factor of the polar factor of an m x n matrix: ``nuclear`` is ``||.||_*^a``,
            ``none`` 1, ``spectral`` sqrt(max(1, m/n)) (Muon), ``rms`` 0.2 sqrt(max(m, n)).
        nuclear_exponent: a in [0, 1], spans Muon (0) to PolarGrad (1).
        weight_decay: decoupled weight decay lambda of the matrices.
        oracle: how the polar factor is computed: a name in :data:`gradopt_ds.ops.ORACLES`, or a
            mapping ``{"type": name, **options}``.
        aux: settings of the auxiliary AdamW.
        stochastic_rounding: round bfloat16 weights up or down at random, so that steps below their
            resolution are not lost. Wider weights, as ZeRO's fp32 masters, do not need it.

    Raises:
        ValueError: a group does not say its rule; an unknown oracle; a combination of settings
            that would leave one of them without effect.
        pydantic.ValidationError: a setting has the wrong type or is out of range.
    """

    fixed_settings: ClassVar[tuple[str, ...]] = (
        *MatrixOptimizer.fixed_settings,
        "momentum_order",
        "nesterov",
        "momentum",
    )

    @checked
    def __init__(
        self,
        params: ParamGroups,
        lr: Positive = 1e-3,
        momentum: Decay = 0.95,
        momentum_order: MomentumOrder = "momentum_first",
        nesterov: bool = False,
        scale: Scale = "nuclear",
        nuclear_exponent: UnitInterval = 1.0,
        weight_decay: NonNegative = 0.0,
        oracle: str | dict[str, Any] | Oracle = "polar_express",
        aux: Aux = AuxAdamW(),  # noqa: B008  (immutable)
        stochastic_rounding: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "momentum_order": momentum_order,
            "nesterov": nesterov,
            "scale": scale,
            "nuclear_exponent": nuclear_exponent,
            "weight_decay": weight_decay,
        }
        _check_combination(defaults)
        super().__init__(params, defaults, oracle, aux, stochastic_rounding)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, see :meth:`MatrixOptimizer.add_param_group`.

        Raises:
            ValueError: also for a combination of settings of its own that the constructor refuses.
        """
        if param_group.get("rule") == MATRIX:
            _check_combination({**self._matrix_defaults, **param_group})
        super().add_param_group(param_group)

    def relative_step(self, rows: int, columns: int, group: Mapping[str, Any]) -> float | None:
        """Return the scale over the longer side's root (see :class:`MatrixOptimizer`)."""
        averaged = group["momentum"] > 0 and group["momentum_order"] == "polar_first"
        if group["scale"] == "nuclear" or averaged:
            return None
        # The polar factor has min(m, n) singular values of 1 and mn entries.
        return _factor(group["scale"], rows, columns) / max(rows, columns) ** 0.5

    def _directions(self, params: Sequence[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
        gradients = super()._directions(params, group)
        if group["momentum"] == 0 or group["momentum_order"] == "polar_first":
            return gradients
        averages = [self._momentum(param) for param in params]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        if group["nesterov"]:
            return list(torch._foreach_lerp(gradients, averages, group["momentum"]))
        return averages

    def _matrix_rule(
        self, matrices: Tensor, across: RowShards, group: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        polar = self.oracle(matrices, across)
        if group["scale"] == "nuclear":
            return polar, nuclear_norm(matrices, polar, across) ** group["nuclear_exponent"]
        factor = _factor(group["scale"], across.rows(matrices), matrices.shape[-1])
        return polar, polar.new_full(matrices.shape[:1], factor)

    def _apply(self, updates: MatrixUpdates, group: Mapping[str, Any]) -> None:
        if group["momentum"] > 0 and group["momentum_order"] == "polar_first":
            averages, directions = updates.parts_of(self._momentum), updates.directions
            polar = [d.to(a.dtype) for a, d in zip(averages, directions, strict=True)]
            torch._foreach_lerp_(averages, polar, 1 - group["momentum"])
            torch._foreach_copy_(directions, averages)
        super()._apply(updates, group)

    def _momentum(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(
                param, memory_format=torch.preserve_format, requires_grad=False
            )
        buffer: Tensor = state["momentum_buffer"]
        return buffer


class Muon(PolarGrad):
    """PolarGrad without the nuclear norm: momentum, then orthogonalisation.

    Source: K. Jordan et al., "Muon: an optimizer for hidden layers" (2024); PolarGrad's section
    on Muon (arXiv 2505.21799). The moving average differs from Muon's heavy-ball sum by a factor
    that the polar factor removes.

    Args:
        params: groups from :func:`gradopt_ds.optim.matrix_param_groups`.
        lr: learning rate.
        momentum: decay rate of the moving average.
        nesterov: look ahead before orthogonalising.
        scale: ``spectral`` (what ``torch.optim.Muon`` calls "original"), ``rms`` or ``none``, see
            :class:`PolarGrad`.
        weight_decay: decoupled weight decay of the matrices.
        oracle: see :class:`PolarGrad`; Muon's own is ``newton_schulz``.
        aux: settings of the auxiliary AdamW.
        stochastic_rounding: round bfloat16 weights up or down at random, so that steps below their
            resolution are not lost. Wider weights, as ZeRO's fp32 masters, do not need it.
    """

    @checked
    def __init__(
        self,
        params: ParamGroups,
        lr: Positive = 1e-3,
        momentum: Decay = 0.95,
        nesterov: bool = True,
        scale: Literal["none", "spectral", "rms"] = "spectral",
        weight_decay: NonNegative = 0.0,
        oracle: str | dict[str, Any] | Oracle = "newton_schulz",
        aux: Aux = AuxAdamW(),  # noqa: B008  (immutable)
        stochastic_rounding: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            scale=scale,
            weight_decay=weight_decay,
            oracle=oracle,
            aux=aux,
            stochastic_rounding=stochastic_rounding,
        )


def _factor(scale: Scale, rows: int, columns: int) -> float:
    """Of the polar factor of a matrix, without the nuclear norm."""
    return {
        "none": 1.0,
        "spectral": max(1.0, rows / columns) ** 0.5,
        "rms": ADAMW_STEP * max(rows, columns) ** 0.5,
    }[scale]


def _check_combination(settings: Mapping[str, Any]) -> None:
    momentum, order, scale = (settings[key] for key in ("momentum", "momentum_order", "scale"))
    for key, choices in (("momentum_order", MomentumOrder), ("scale", Scale)):
        if settings[key] not in get_args(choices):
            raise ValueError(f"{key} must be one of {get_args(choices)}, got {settings[key]!r}")
    if settings["nesterov"] and (momentum == 0 or order == "polar_first"):
        raise ValueError(
            "nesterov needs momentum > 0 and momentum_order 'momentum_first', got "
            f"momentum={momentum}, momentum_order={order!r}"
        )
    if settings["nuclear_exponent"] != 1.0 and scale != "nuclear":
        raise ValueError(f"nuclear_exponent has no effect with scale={scale!r}")
