"""The base of the optimizers that update whole matrices."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradopt_ds.matrices import (
    Block,
    ExchangeSettings,
    MatrixMap,
    MatrixUpdates,
    RowShards,
    WholeMatrixMap,
)
from gradopt_ds.ops import Oracle, make_oracle, oracle_spec
from gradopt_ds.optim.aux_adamw import step_aux
from gradopt_ds.optim.hand_made_groups import assignments_by_hand
from gradopt_ds.optim.param_groups import AUX, MATRIX, Assignment
from gradopt_ds.optim.resumed_settings import BASE_LR, load_with_settings
from gradopt_ds.optim.rounding import seed_of_part, store
from gradopt_ds.optim.settings import AuxAdamW
from gradopt_ds.optim.unattached import remember


class MatrixOptimizer(Optimizer, ABC):
    """A matrix rule for the linear layers, and torch's AdamW for everything else.

    A subclass supplies its rule on whole matrices (:meth:`_matrix_rule`) and, if it has momentum,
    what the rule is applied to (:meth:`_directions`). Where the matrices are is the business of
    ``matrix_map``: the default expects them whole; under ZeRO it is replaced by an exchange.

    Group settings of a matrix group are those in ``matrix_defaults``; of an auxiliary group,
    AdamW's and ``lr_scale``. Every group's ``lr`` is the matrix learning rate, and an auxiliary
    group steps with ``lr * lr_scale``: schedulers that write one ``lr`` into all groups, as
    DeepSpeed's do, keep the ratio of the two. An auxiliary group that is given an ``lr`` begins
    with that one: ``lr_scale`` is its ratio to the matrix learning rate.

    Copies and pickles go on like the original; torch's hooks are not in them, as with AdamW.

    Attributes:
        assignments: parameter → which rule it gets, and why.
        blocks: parameter with the matrix rule → the matrices that lie in it.
        exchange: how cut matrices travel; may be replaced before ``deepspeed.initialize``.

    Args:
        params: groups that carry a rule, from :func:`gradopt_ds.optim.matrix_param_groups`.
        matrix_defaults: settings of the matrix groups, ``lr`` among them.
        oracle: how polar factors are computed, see :func:`gradopt_ds.ops.make_oracle`.
        aux: settings of the auxiliary AdamW.
        stochastic_rounding: of bfloat16 weights, see
            :func:`gradopt_ds.optim.rounding.round_stochastically`.

    Raises:
        ValueError: a group does not say its rule; an unknown oracle.
    """

    fixed_settings: ClassVar[tuple[str, ...]] = ("rule",)
    """Settings of a group under which saved state would mean something else if they changed, see
    :func:`gradopt_ds.optim.resumed_settings.refuse_another_rule`."""

    _generator: torch.Generator | None = None

    def __init_subclass__(cls) -> None:
        """Refuse the method of version 0.2 that nothing calls any more.

        Raises:
            TypeError: the class has it.
        """
        super().__init_subclass__()
        if "_direction" in vars(cls):
            name = f"{cls.__name__}._direction"
            raise TypeError(f"nothing would call {name}: write _directions(params, group)")

    def __init__(
        self,
        params: Iterable[Any],
        matrix_defaults: Mapping[str, Any],
        oracle: str | Mapping[str, Any] | Oracle,
        aux: AuxAdamW,
        stochastic_rounding: bool,
    ) -> None:
        self.oracle = make_oracle(oracle)
        self.assignments: dict[Tensor, Assignment] = {}
        self.blocks: dict[Tensor, tuple[Block, ...]] = {}
        self.matrix_map: MatrixMap = WholeMatrixMap(self.blocks)
        self.exchange = ExchangeSettings()
        self._matrix_defaults = dict(matrix_defaults)
        self._aux = aux
        self._rounding = {"stochastic_rounding": stochastic_rounding, "rounding_step": 0}
        super().__init__(params, {"lr": matrix_defaults["lr"]})
        remember(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; settings it does not carry are filled in according to its rule.

        Args:
            param_group: parameters and settings. ``assignments``: of every parameter, as
                :func:`gradopt_ds.matrix_param_groups` makes them; or ``blocks`` of a matrix group:
                the matrices of each parameter. Without either every parameter is one matrix. ``lr``
                of an auxiliary group: AdamW's; ``matrix_lr`` instead: that of the matrices which it
                accompanies.

        Raises:
            ValueError: the group has no ``rule``; a parameter of a matrix group is not 2-D, and
                nothing says which matrices lie in it; a matrix that cannot be updated; an oracle
                of its own. The group is not added.
        """
        rule = param_group.get("rule")
        if rule not in (MATRIX, AUX):
            raise ValueError(
                f"{type(self).__name__} must know which parameters are matrices: write "
                f"{type(self).__name__}(gradopt_ds.matrix_param_groups(model), …) "
                "instead of passing bare parameters"
            )
        # A copy: the caller may make a second optimizer of these groups.
        param_group = dict(param_group)
        blocks, assignments = (param_group.pop(key, None) for key in ("blocks", "assignments"))
        param_group["algorithm"] = type(self).__name__
        if rule == AUX and "lr_scale" not in param_group:
            param_group.update(self._aux_rates(param_group))
        settings = self._matrix_settings(param_group) if rule == MATRIX else self._aux.model_dump()
        for key, value in {**settings, **self._rounding}.items():
            param_group.setdefault(key, value)
        param_group.setdefault(BASE_LR, param_group["lr"])
        super().add_param_group(param_group)
        try:
            params = self.param_groups[-1]["params"]
            own = assignments or assignments_by_hand(params, rule, blocks)
            self._check_assignments({param: own[param] for param in params})
        except ValueError:
            del self.param_groups[-1]
            raise
        for param in params:
            self.assignments[param] = own[param]
            if rule == MATRIX:
                self.blocks[param] = own[param].blocks

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss, as in ``torch.optim``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                self._seed_rounding(group)
                if group["rule"] == MATRIX:
                    self._step_matrices(group)
                else:
                    step_aux([group], self.state, self._generator)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds.

        Raises:
            TypeError: the matrices are spread over ranks.
        """
        if not isinstance(self.matrix_map, WholeMatrixMap):
            raise TypeError(
                f"this {type(self).__name__} belongs to a DeepSpeed engine: its matrices are cut "
                "over the ranks of process groups, which can be neither copied nor pickled. Copy "
                "it before `deepspeed.initialize`, or save it with `engine.save_checkpoint`"
            )
        return {
            key: value
            for key, value in vars(self).items()
            # Hooks, a step that a scheduler has wrapped, random numbers that every step seeds anew.
            if not key.startswith("_optimizer_") and key not in ("step", "_generator")
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore state saved by the same optimizer; settings that differ are said in the log.

        Raises:
            ValueError: the state belongs to another optimizer, to this one behind a gradient
                power that it no longer has, or to one of other ``fixed_settings``.
        """
        powered = any("power" in group for group in self.param_groups)
        for group in state_dict["param_groups"]:
            if (saved := group.get("algorithm")) != type(self).__name__:
                raise ValueError(
                    f"this state was saved by {saved or 'another optimizer'}, not by "
                    f"{type(self).__name__}: start without it, or use that optimizer"
                )
            if "power" in group and not powered:
                raise ValueError(
                    f"this state was saved with gradients to the power {group['power']:g}: "
                    "resuming without it would change the optimizer in the middle of a run"
                )
        load_with_settings(self, state_dict, super().load_state_dict, self.fixed_settings)

    @abstractmethod
    def _matrix_rule(
        self, matrices: Tensor, across: RowShards, group: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Compute directions ``[b, m, n]`` and scales ``[b]`` of matrices ``[b, m, n]``.

        Args:
            matrices: whole ones, or some rows of tall ones.
            across: where the other rows are.
            group: the settings.
        """

    def relative_step(self, rows: int, columns: int, group: Mapping[str, Any]) -> float | None:
        """Compute the root mean square of a full-rank matrix's step over ``lr``, without the decay.

        Args:
            rows: of the matrix.
            columns: of the matrix.
            group: the settings.

        Returns:
            None where it depends on the gradients. Oracles that are not exact come near it.
        """
        return None

    def _directions(self, params: Sequence[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
        """Return what the rule is applied to, elementwise in each of ``params``: gradients."""
        return [param.grad for param in params if param.grad is not None]

    def _apply(self, updates: MatrixUpdates, group: Mapping[str, Any]) -> None:
        """Decay the matrices, or their parts that are here; subtract ``lr * scale * direction``."""
        steps = updates.directions
        torch._foreach_mul_(steps, (updates.scales * group["lr"]).unbind())
        targets = updates.parts_of(lambda param: param)
        # The targets themselves, unless those are in half precision.
        weights = [target.to(step.dtype) for target, step in zip(targets, steps, strict=True)]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(weights, steps)
        numbers = {id(p): n for n, p in enumerate(group["params"])} if self._generator else {}
        for param, part, target, weight in zip(
            updates.params, updates.where, targets, weights, strict=True
        ):
            if self._generator:  # copies on other ranks are not updated in this order
                place = numbers[id(param)], part.start if part else 0
                self._generator.manual_seed(seed_of_part(group["rounding_step"], *place))
            if weight is not target:
                store(target, weight, self._generator)

    def _step_matrices(self, group: Mapping[str, Any]) -> None:
        if params := [param for param in group["params"] if param.grad is not None]:
            directions = self._directions(params, group)
            rule = partial(self._matrix_rule, group=group)
            for updates in self.matrix_map(params, directions, rule):
                self._apply(updates, group)

    def _seed_rounding(self, group: dict[str, Any]) -> None:
        """Prepare the group's random numbers; its counter travels in checkpoints."""
        self._generator = None
        if group["stochastic_rounding"] and group["params"]:
            self._generator = torch.Generator(group["params"][0].device)
            self._generator.manual_seed(group["rounding_step"])
            group["rounding_step"] += 1

    def _matrix_settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        # The oracle is written down, for checkpoints; the one that computes is ``self.oracle``.
        oracle = oracle_spec(self.oracle)
        if group.get("oracle", oracle) != oracle:
            raise ValueError(
                f"one oracle computes all groups, {oracle}, and a group has {group['oracle']!r}: "
                f"pass it to {type(self).__name__} as `oracle`"
            )
        return {**self._matrix_defaults, "oracle": oracle}

    def _aux_rates(self, group: dict[str, Any]) -> dict[str, float]:
        lr = self._matrix_defaults["lr"]
        if "matrix_lr" in group:
            return {"lr": group.pop("matrix_lr"), "lr_scale": self._aux.lr / lr}
        return {"lr": lr, "lr_scale": group.pop("lr", self._aux.lr) / lr}

    def _check_assignments(self, assignments: Mapping[Tensor, Assignment]) -> None:
        for param, assignment in assignments.items():
            shapes = [(block.rows, block.columns) for block in assignment.blocks]
            for rows, columns in (shape for b in assignment.blocks for shape in b.shapes):
                self._check_matrix(rows, columns)
            if shapes and shapes != [tuple(param.shape)] and not param.is_contiguous():
                raise ValueError(
                    f"a parameter of shape {tuple(param.shape)} with {len(shapes)} matrices in it "
                    "is not contiguous in memory, so that none of them could be updated in place: "
                    "set `param.data = param.data.contiguous()` before the optimizer is made"
                )

    def _check_matrix(self, rows: int, columns: int) -> None:
        """Refuse a matrix that the rule would never move.

        Raises:
            ValueError: says why.
        """
