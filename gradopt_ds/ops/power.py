"""The elementwise power of GradPower."""

import torch
from torch import Tensor


@torch.no_grad()
def sign_power(g: Tensor, power: float) -> Tensor:
    r"""Raise the entries to a power and keep their signs.

    .. math::
        \varphi_p(g) = \mathrm{sign}(g)\,|g|^p

    Source: GradPower, arXiv 2505.24275, Algorithm 1. Not homogeneous
    (:math:`\varphi_p(cg) = c^p\varphi_p(g)`): give it the averaged, unscaled gradient.

    Args:
        g: a gradient of any shape and floating dtype.
        power: the exponent p > 0.

    Returns:
        A tensor of the shape and dtype of ``g``; ``g`` itself if ``power`` is 1.

    Raises:
        ValueError: ``power`` is not positive.
    """
    if not power > 0:
        raise ValueError(f"power must be > 0, got {power!r}")
    return g if power == 1 else g.abs().pow_(power).copysign_(g)
