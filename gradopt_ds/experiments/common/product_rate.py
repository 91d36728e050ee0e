"""What a device can do at most: the rate of one large product of matrices."""

import statistics

import torch

from gradopt_ds.experiments.common.device_time import timed

ON_CUDA, ON_CPU = 8192, 1024
"""Rows of the square product: large enough to fill the device, small enough for a second."""
REPEATS = 5


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of a large product of random matrices.

    Zeros would be multiplied faster than real numbers are.

    Args:
        device: where.
        dtype: of the matrices.
    """
    size = ON_CUDA if device.type == "cuda" else ON_CPU
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in "ab")
    timed(a.__matmul__, b)
    seconds = statistics.median(timed(a.__matmul__, b)[1] for _ in range(REPEATS))
    return 2 * size**3 / seconds


def best_rate(device: torch.device) -> dict[str, float | str]:
    """Measure the rate in the dtype that the device is fastest in.

    Returns:
        ``peak_dtype``, and ``peak_flops_per_second`` of one large product in it.
    """
    dtypes = (torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.float32,)
    rates = {str(dtype).removeprefix("torch."): product_rate(device, dtype) for dtype in dtypes}
    fastest = max(rates, key=lambda name: rates[name])
    return {"peak_dtype": fastest, "peak_flops_per_second": rates[fastest]}
