"""Which rule got which parameters, and why: one table, on rank 0."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod

from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from gradopt_ds.integration.log import log_on_rank_0
from gradopt_ds.integration.parallel.pipeline import of_all_stages
from gradopt_ds.integration.parallel.pipeline_ties import is_another_copy
from gradopt_ds.optim import MatrixOptimizer, base_of
from gradopt_ds.optim.facts import whole_shape
from gradopt_ds.optim.param_groups import MATRIX


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

    Of a model with pipeline stages those of this stage are counted; a tied layer on its first one.

    Args:
        model: the model that the optimizer's parameters belong to.
        optimizer: one of this library's optimizers.
    """
    names = {param: name for name, param in model.named_parameters()}
    base = base_of(optimizer)
    algorithm = type(base).__name__
    summaries: dict[tuple[str, str], RuleSummary] = {}
    for group in optimizer.param_groups:
        for param in group["params"]:
            if is_another_copy(param):
                continue
            label, reason, matrices = algorithm, "elementwise: every parameter", 0
            shape = whole_shape(param)
            if isinstance(base, MatrixOptimizer):
                assignment = base.assignments[param]
                label = algorithm if assignment.rule == MATRIX else "AdamW (auxiliary)"
                reason = assignment.reason
                matrices = sum(len(block.shapes) for block in assignment.blocks)
                shape = assignment.shape
            name = names.get(param, "(not a parameter of the model)")
            summary = summaries.setdefault((label, reason), RuleSummary(label, reason, name))
            summary.tensors += 1
            summary.matrices += matrices
            summary.elements += prod(shape)
    return list(summaries.values())


def joined_summaries(stages: Iterable[Sequence[RuleSummary]]) -> list[RuleSummary]:
    """Join the summaries of all pipeline stages into one of the whole model."""
    whole: dict[tuple[str, str], RuleSummary] = {}
    for row in chain.from_iterable(stages):
        known = whole.setdefault(
            (row.rule, row.reason), RuleSummary(row.rule, row.reason, row.example)
        )
        known.tensors += row.tensors
        known.matrices += row.matrices
        known.elements += row.elements
    return list(whole.values())


def log_rules(model: nn.Module, optimizer: Optimizer) -> None:
    """Log a table of the whole model's rules on rank 0, see :func:`summarize_rules`."""
    powers = {group["power"] for group in optimizer.param_groups if "power" in group}
    title = "".join(f"gradients to the power {power:g}, then " for power in sorted(powers))
    table = Table(title=f"gradopt_ds: {title}these rules", title_justify="left")
    numbers = ("tensors", "matrices", "parameters")
    for heading in ("rule", *numbers, "why", "first of them"):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    stages = of_all_stages(model, summarize_rules(model, optimizer))
    for row in joined_summaries(stages):
        matrices = str(row.matrices or "")
        table.add_row(
            row.rule, str(row.tensors), matrices, f"{row.elements:,}", row.reason, row.example
        )
    console = Console(width=140, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    log_on_rank_0(f"\n{capture.get().rstrip()}")
