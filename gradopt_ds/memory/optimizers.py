"""Optimizers on the meta device: their groups, and the state that their own step makes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.parallel.experts import is_spread
from gradopt_ds.integration.registry import OPTIMIZERS, canonical_name, names
from gradopt_ds.matrices import MatrixRule, MatrixUpdates
from gradopt_ds.memory.live import tensors_in
from gradopt_ds.optim import MatrixOptimizer, base_of

BLOCKS: Mapping[str, dict[str, Any]] = {
    "AdamW": {"type": "AdamW", "params": {"torch_adam": True}},
    "FusedAdamW": {"type": "AdamW"},
    **{name: {"type": name} for name in OPTIMIZERS},
}
"""Short names → ``"optimizer"`` blocks of a DeepSpeed JSON, with every default."""

ADAM_KEYS = frozenset({"lr", "betas", "eps", "weight_decay", "amsgrad"})
DEEPSPEED_KEYS = frozenset({"torch_adam", "adam_w_mode", "bias_correction"})

ON_META: Mapping[str, Any] = {"stochastic_rounding": False, "fused": None}
"""Settings of a step on meta tensors: random numbers and fused kernels need a device that computes.
The state has the same size."""


@dataclass(frozen=True)
class Built:
    """An optimizer over the parameters of a model on the meta device.

    Attributes:
        optimizer: it has never stepped.
        torch_steps: torch takes the step, with counters that are tensors; DeepSpeed's fused Adam
            has none.
    """

    optimizer: Optimizer
    torch_steps: bool

    @property
    def base(self) -> Optimizer:
        """The optimizer behind a gradient power."""
        return base_of(self.optimizer)

    @property
    def powered(self) -> bool:
        """Whether a gradient power keeps the gradients of a step twice."""
        return any(group.get("power", 1.0) != 1.0 for group in self.optimizer.param_groups)

    def state_bytes(self, stepped: Sequence[Sequence[tuple[int, ...]]], dtype: torch.dtype) -> int:
        """Count the bytes of state by taking a step on meta tensors: nothing is derived.

        Args:
            stepped: for each parameter group the shapes of the tensors that it steps on.
            dtype: theirs.
        """
        groups = self.optimizer.param_groups
        before = [dict(group) for group in groups]
        self.optimizer.state.clear()
        if isinstance(self.base, MatrixOptimizer):
            self.base.matrix_map = _without_rule
        for group, shapes in zip(groups, stepped, strict=True):
            group["params"] = [_with_gradient(shape, dtype) for shape in shapes]
            group.update({key: value for key, value in ON_META.items() if key in group})
        self.optimizer.step()
        held = [
            tensor.numel() * tensor.itemsize
            for state in self.optimizer.state.values()
            for key, value in state.items()
            if key != "step" or self.torch_steps
            for tensor in tensors_in(value)
        ]
        for group, settings in zip(groups, before, strict=True):
            group.update(settings)
        self.optimizer.state.clear()
        return sum(held)


def build(block: Mapping[str, Any], model: nn.Module) -> Built:
    """Build the optimizer of a DeepSpeed JSON over a model on the meta device.

    Args:
        block: the ``"optimizer"`` block.
        model: names and shapes are read.

    Raises:
        ValueError: a mistake in the block, or an optimizer whose memory is not known.
    """
    name, params = str(block.get("type")), dict(block.get("params") or {})
    if canonical_name(name) is not None:
        optimizer = build_optimizer(name, params, model, _handed_over(model))
        return Built(optimizer, True)
    if name.lower() not in ("adam", "adamw"):
        raise ValueError(
            f"the memory of the optimizer {name!r} is not known; known are AdamW, Adam, "
            f"{', '.join(names())}; \"Muon\" is DeepSpeed's own, this library's is MatrixMuon"
        )
    if unknown := sorted(params.keys() - ADAM_KEYS - DEEPSPEED_KEYS):
        raise ValueError(f"{name}: it is not known what {', '.join(unknown)} means for memory")
    settings = {key: value for key, value in params.items() if key in ADAM_KEYS}
    return Built(AdamW(_handed_over(model), **settings), bool(params.get("torch_adam")))


def _handed_over(model: nn.Module) -> list[dict[str, Any]]:
    """Return the groups that DeepSpeed hands to an optimizer: experts in one of their own."""
    trainable = [param for param in model.parameters() if param.requires_grad]
    members = [[p for p in trainable if is_spread(p) == spread] for spread in (False, True)]
    return [{"params": own} for own in members if own]


def _without_rule(
    params: Sequence[Tensor], directions: Sequence[Tensor], rule: MatrixRule
) -> Iterator[MatrixUpdates]:
    """Serve as a matrix map for shapes alone: ask the rule for nothing."""
    for param, direction in zip(params, directions, strict=True):
        yield MatrixUpdates([param], [torch.empty_like(direction)], direction.new_empty(1), [None])


def _with_gradient(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    param = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
    param.grad = torch.empty_like(param)
    return param
