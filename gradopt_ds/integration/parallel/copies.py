"""Copies of a parameter are equal on all tensor-parallel ranks, and stay so."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.integration.parallel.whole_model import BITS

CHUNK = 2**22
"""Elements that are looked at together."""


def unequal_copies(
    model: nn.Module, cuts: Mapping[Tensor, TensorCut], group: dist.ProcessGroup
) -> list[str]:
    """Name the parameters whose copies differ in any bit. Collective.

    Args:
        model: whose parameters.
        cuts: parameter → how it is cut.
        group: of tensor-parallel ranks.
    """
    copies = {n: param for n, param in model.named_parameters() if cuts[param].axis is None}
    if not copies:
        return []
    digests = torch.stack([_digest(param) for param in copies.values()])
    digests = digests.to(get_accelerator().current_device_name())
    extremes = torch.stack([digests, -digests])
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group=group)
    largest, smallest = extremes[0], -extremes[1]
    differs = (largest != smallest).tolist()
    return [name for name, is_other in zip(copies, differs, strict=True) if is_other]


def separate_copies(optimizer: Optimizer, cuts: Mapping[Tensor, TensorCut]) -> None:
    """Put copies into groups of their own where weights are rounded at random.

    The random numbers follow the places in a flat slice. A slice of copies is the same on every
    tensor-parallel rank; one with shards of uneven sizes among them is not.

    Args:
        optimizer: before ZeRO flattens its groups.
        cuts: parameter → how it is cut.
    """
    for group in list(optimizer.param_groups):
        copies = [param for param in group["params"] if cuts[param].axis is None]
        if group.get("stochastic_rounding") and 0 < len(copies) < len(group["params"]):
            group["params"] = [param for param in group["params"] if cuts[param].axis is not None]
            optimizer.param_groups.append({**group, "params": copies})


def _digest(param: Tensor) -> Tensor:
    """Sum the bits, each element's times its position: integers, so the order does not matter."""
    bits = param.detach().reshape(-1).view(BITS[param.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for first, chunk in enumerate(bits.split(CHUNK)):
        odd = torch.arange(1, 2 * len(chunk), 2, device=bits.device) + 2 * CHUNK * first
        total += (chunk * odd).sum()
    return total >> 1  # so that it has a negative
