"""Which dtype an iteration multiplies matrices in."""

import torch

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The compute dtypes under the names that JSON writes."""

NATIVE_BFLOAT16 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""Private questions of ``torch.cpu``; a torch without them gets float32, slower but right."""


def default_compute_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies it natively, else float32.

    float16 is never a CPU's default: it is emulated there, some 30 times slower than float32.

    Args:
        device: where the matrices are.

    Returns:
        ``torch.bfloat16`` for accelerators and CPUs with AVX512-BF16 or AMX, else
        ``torch.float32``.
    """
    if device.type != "cpu":
        return torch.bfloat16
    questions = [getattr(torch.cpu, name) for name in NATIVE_BFLOAT16 if hasattr(torch.cpu, name)]
    return torch.bfloat16 if any(supported() for supported in questions) else torch.float32
