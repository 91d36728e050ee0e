"""GradPower: ``sign(g)|g|^p`` before any base optimizer (arXiv 2505.24275)."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from gradopt_ds.ops import sign_power
from gradopt_ds.optim.matrix_optimizer import MatrixOptimizer
from gradopt_ds.optim.resumed_settings import BASE_LR, load_with_settings
from gradopt_ds.optim.settings import Positive, checked
from gradopt_ds.optim.unattached import forget, remember


@contextmanager
def powered_gradients(groups: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Give the gradients of ``groups`` as ``phi_p(g)``, ``p = group["power"]``, inside the context.

    The gradients themselves are left as they are: a caller that keeps on accumulating into them
    must not meet a gradient that has already been raised to a power. So they exist twice for as
    long as the context lasts, but for those of groups whose power is 1.
    """
    gradients = [
        (param, param.grad, group["power"])
        for group in groups
        for param in group["params"]
        if param.grad is not None and group["power"] != 1.0
    ]
    try:
        for param, gradient, power in gradients:
            param.grad = sign_power(gradient, power)
        yield
    finally:
        for param, gradient, _ in gradients:
            param.grad = gradient


class GradPower(Optimizer):
    r"""Any optimizer, fed with powered gradients: :math:`\varphi_p(g) = \mathrm{sign}(g)|g|^p`.

    Source: GradPower, arXiv 2505.24275, Algorithm 1. The power is not homogeneous,
    :math:`\varphi_p(cg) = c^p\varphi_p(g)`, so it acts once per step on the gradient that is
    averaged over ranks and micro-batches, unscaled and clipped.

    The base takes one step over all groups, so that it may relate them to one another (by a global
    norm, say). During that step every gradient with a power other than 1 exists twice.

    Args:
        base: the optimizer that takes the step; its groups and state are shared, not copied. It
            must do without a closure: the closure, if there is one, is called once, before it.
        power: the exponent p; 1.2 is the paper's choice for Adam. Small gradients shrink
            (``1e-6 -> 6e-8`` at 1.2): keep the base optimizer's ``eps`` small.

    Raises:
        pydantic.ValidationError: ``power`` is not a positive number.
        ValueError: ``base`` is itself a GradPower, or cannot step without a closure.
    """

    @checked
    def __init__(self, base: Optimizer, power: Positive = 1.2) -> None:
        if isinstance(base, GradPower):
            raise ValueError("GradPower of GradPower: multiply the two powers into one")
        if _needs_closure(base):
            raise ValueError(
                f"GradPower of {type(base).__name__}, which evaluates the model within its step: "
                "those gradients would not be raised to the power"
            )
        self.base = base
        super().__init__(base.param_groups, {**base.defaults, "power": power})
        for group in self.param_groups:
            group["power"] = power
            if "lr" in group:
                group.setdefault(BASE_LR, group["lr"])
        self.state = base.state
        self._share_with_base()
        forget(base)
        remember(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer and to this one (see ``torch.optim.Optimizer``)."""
        if any(param_group is group for group in self.base.param_groups):
            super().add_param_group(param_group)
            return
        self._share_with_base()
        self.base.add_param_group(param_group)
        self.param_groups[-1].setdefault("power", self.defaults["power"])

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take the base optimizer's step with powered gradients.

        Args:
            closure: re-evaluates the model and returns the loss, as in ``torch.optim``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._share_with_base()
        with powered_gradients(self.param_groups):
            self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state; ``power`` travels in its groups."""
        self._share_with_base()
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the base optimizer's state, with the checks that the base makes.

        Raises:
            ValueError: the state was saved by an optimizer without a gradient power.
        """
        if any("power" not in group for group in state_dict["param_groups"]):
            raise ValueError(
                "this state was saved without a gradient power: it is not GradPower's, and "
                "resuming from it would change the optimizer in the middle of a run"
            )
        self._share_with_base()
        if isinstance(self.base, MatrixOptimizer):
            self.base.load_state_dict(state_dict)
        else:
            load_with_settings(self.base, state_dict, self.base.load_state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: what torch keeps, and the base with the same."""
        self._share_with_base()
        return {**super().__getstate__(), "base": self.base}

    def _share_with_base(self) -> None:
        # DeepSpeed assigns new lists to `param_groups`; the base must see the same ones.
        self.base.param_groups = self.param_groups
        self.base.state = self.state


def base_of(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer itself, or the one behind a gradient power."""
    return optimizer.base if isinstance(optimizer, GradPower) else optimizer


def _needs_closure(base: Optimizer) -> bool:
    closure = inspect.signature(base.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
