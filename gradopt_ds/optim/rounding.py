"""Stochastic rounding: bfloat16 weights that do not lose small steps."""

import zlib

import torch
from torch import Tensor

DROPPED_BITS = 16
"""bfloat16 is the upper half of a float32."""


def round_stochastically(x: Tensor, generator: torch.Generator) -> Tensor:
    r"""Round to bfloat16, up or down with the probability that keeps the mean.

    A bfloat16 weight has 8 significant bits: to nearest, a step of less than 1/512 of the weight is
    lost, every time. Here it is taken with a probability of its size in units of the last place,
    so that :math:`E[\mathrm{round}(x)] = x`.

    Args:
        x: float32 of any shape. What is not finite stays what it is.
        generator: on the device of ``x``.

    Returns:
        bfloat16 of the shape of ``x``.
    """
    noise = torch.empty_like(x, dtype=torch.int32).random_(
        0, 1 << DROPPED_BITS, generator=generator
    )
    raised = (x.view(torch.int32) + noise) & -(1 << DROPPED_BITS)
    return raised.view(torch.float32).where(x.isfinite(), x).to(torch.bfloat16)


def seed_of_part(step: int, tensor: int, start: int) -> int:
    """Return a seed of 32 bits, all that torch's generator on a CPU takes.

    Args:
        step: the group's counter of steps.
        tensor: number of a tensor in its group.
        start: first element of a part of it that is updated by itself.
    """
    return zlib.crc32(f"{step} {tensor} {start}".encode())


def store(target: Tensor, value: Tensor, generator: torch.Generator | None) -> None:
    """Write a float32 ``value`` into ``target`` of any dtype.

    Args:
        target: written in place.
        value: of the shape of ``target``.
        generator: round to bfloat16 stochastically with it; None rounds to nearest.
    """
    if generator is not None and target.dtype == torch.bfloat16:
        value = round_stochastically(value, generator)
    target.copy_(value)
