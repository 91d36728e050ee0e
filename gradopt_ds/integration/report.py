"""Which rule got which parameters, and why: one table, on rank 0."""

import logging
from dataclasses import dataclass
from math import prod
from typing import Any

import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from gradopt_ds.matrices import Block
from gradopt_ds.optim import Assignment, GradPower, MatrixOptimizer
from gradopt_ds.optim.param_groups import MATRIX, default_assignments, whole_shape

logger = logging.getLogger("gradopt_ds")
if not logger.handlers:
    # Without one, Python shows warnings only, and the table that tells which parameters are
    # orthogonalised would be the first thing to go missing. `logging` can still silence it.
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)


@dataclass
class RuleSummary:
    """The parameters that one rule got for one reason.

    Attributes:
        rule: what updates them.
        reason: why.
        tensors: number of parameters.
        matrices: number of matrices in them; 0 where no matrix rule is at work.
        elements: number of elements.
        example: the first one's name.
    """

    rule: str
    reason: str
    example: str
    tensors: int = 0
    matrices: int = 0
    elements: int = 0


def summarize_rules(model: nn.Module, optimizer: Optimizer) -> list[RuleSummary]:
    """Count the parameters of an optimizer by rule and reason, before ZeRO flattens them.

    Args:
        model: the model that the optimizer's parameters belong to.
        optimizer: one of this library's optimizers.
    """
    names = {param: name for name, param in model.named_parameters()}
    base = optimizer.base if isinstance(optimizer, GradPower) else optimizer
    defaults = default_assignments(model) if _has_rules(optimizer) else {}
    blocks = base.blocks if isinstance(base, MatrixOptimizer) else {}
    summaries: dict[tuple[str, str], RuleSummary] = {}
    for group in optimizer.param_groups:
        label = _label(group, type(base).__name__)
        for param in group["params"]:
            name = names.get(param, "(not a parameter of the model)")
            reason = _reason(group, defaults.get(param), blocks.get(param, ()))
            summary = summaries.setdefault((label, reason), RuleSummary(label, reason, name))
            summary.tensors += 1
            summary.matrices += len(blocks.get(param, ()))
            summary.elements += prod(whole_shape(param))
    return list(summaries.values())


def log_rules(model: nn.Module, optimizer: Optimizer) -> None:
    """Log the table of :func:`summarize_rules` on rank 0."""
    powers = {group["power"] for group in optimizer.param_groups if "power" in group}
    title = "".join(f"gradients to the power {power:g}, then " for power in sorted(powers))
    table = Table(title=f"gradopt_ds: {title}these rules", title_justify="left")
    numbers = ("tensors", "matrices", "parameters")
    for heading in ("rule", *numbers, "why", "first of them"):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for row in summarize_rules(model, optimizer):
        matrices = str(row.matrices or "")
        table.add_row(
            row.rule, str(row.tensors), matrices, f"{row.elements:,}", row.reason, row.example
        )
    console = Console(width=140, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    log_on_rank_0(f"\n{capture.get().rstrip()}")


def log_on_rank_0(message: str) -> None:
    """Log a message once for all ranks."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        logger.info(message)


def _has_rules(optimizer: Optimizer) -> bool:
    return all("rule" in group for group in optimizer.param_groups)


def _label(group: dict[str, Any], algorithm: str) -> str:
    if "rule" not in group:
        return algorithm
    return algorithm if group["rule"] == MATRIX else "AdamW (auxiliary)"


def _reason(group: dict[str, Any], default: Assignment | None, blocks: tuple[Block, ...]) -> str:
    if "rule" not in group:
        return "elementwise: every parameter"
    if default is not None and (default.rule, default.blocks) == (group["rule"], blocks):
        return default.reason
    return "named in include, exclude or split"
