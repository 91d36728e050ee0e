"""The model that one rank has where experts are spread over ranks: from shapes, without processes.

Stacked experts become what AutoEP leaves of them: gate, down and up apart. Experts that are modules
of their own, as in DeepSpeed's MoE layer, become fewer.
"""

import copy
import re

import torch
from torch import nn

from gradopt_ds.integration.parallel.experts import is_spread

EXPERTS = re.compile(r"(?:.*\.)?experts(?:\.[A-Za-z_]\w*)*")
"""Names of modules that hold experts, and are none."""

FUSED = {"gate_up_proj", "down_proj"}
"""What stands in a stack of gated experts of ``transformers``."""


def on_one_rank(model: nn.Module, ranks: int) -> nn.Module:
    """Return a copy of a model on the meta device with one rank's share of the experts.

    Args:
        model: it has all experts.
        ranks: over which they are spread; 1 returns the model itself.

    Raises:
        ValueError: it has no experts, another number than the ranks can share, or a parameter of
            experts that is no stack of them.
    """
    if ranks == 1:
        return model
    own = copy.deepcopy(model)
    for name, module in list(own.named_modules()):
        if not EXPERTS.fullmatch(name):
            continue
        if isinstance(module, nn.ModuleList):
            del module[_share(len(module), ranks, name) :]
        _share_stacks(module, ranks, name)
        for param in module.parameters():
            param.allreduce = False  # as DeepSpeed marks them
    if not any(map(is_spread, own.parameters())):
        raise ValueError(
            f"expert_parallel {ranks}, but no module with parameters is called experts"
        )
    return own


def _share_stacks(module: nn.Module, ranks: int, name: str) -> None:
    """Replace the stacks in a module by those of one rank's experts."""
    stacks = dict(module.named_parameters(recurse=False))
    shapes = {}
    for leaf, stack in stacks.items():
        if stack.ndim != 3:
            raise ValueError(
                f"expert_parallel {ranks} cannot spread '{name}.{leaf}' of shape "
                f"{tuple(stack.shape)}: experts are the first of three dimensions, or modules with "
                "a number in their names"
            )
        shapes[leaf] = (_share(len(stack), ranks, f"{name}.{leaf}"), *stack.shape[1:])
    if shapes.keys() == FUSED:
        count, *rest = shapes["gate_up_proj"]
        rows, columns = reversed(rest) if getattr(module, "is_transposed", False) else rest
        gate, down = (count, rows // 2, columns), (count, columns, rows // 2)
        shapes = {"w1": gate, "w2": down, "w3": gate}
    for leaf in stacks:
        delattr(module, leaf)
    for leaf, shape in shapes.items():
        share = nn.Parameter(torch.empty(shape, device="meta"))
        share.is_expert_group = True  # type: ignore[attr-defined]  # as AutoEP marks them
        module.register_parameter(leaf, share)


def _share(experts: int, ranks: int, name: str) -> int:
    if experts % ranks:
        raise ValueError(
            f"expert_parallel {ranks} does not divide the {experts} experts of {name!r}"
        )
    return experts // ranks
