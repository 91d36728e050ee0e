"""Which dtype an iteration multiplies matrices in, and that it is that dtype."""

from collections.abc import Iterator
from contextlib import contextmanager

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
        ``torch.bfloat16`` for CPUs with AVX512-BF16 or AMX and for accelerators, NVIDIA's from
        Ampere on; else ``torch.float32``.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    if device.type != "cpu":
        return torch.bfloat16
    questions = [getattr(torch.cpu, name) for name in NATIVE_BFLOAT16 if hasattr(torch.cpu, name)]
    return torch.bfloat16 if any(supported() for supported in questions) else torch.float32


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply float32 matrices in float32 inside the context.

    A training script that allows TF32 (``torch.set_float32_matmul_precision("high")``) allows it
    for every product of the process: 11 significant bits instead of 24 on NVIDIA GPUs, and 8 at
    "medium" on some CPUs. An oracle in float32 is there because half precision would not do.
    """
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
        allowed = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(allowed)
        return
    on_cpu = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    lowered = [
        (backend, backend.fp32_precision)
        for backend in (torch.backends.cuda.matmul, on_cpu)
        if backend.fp32_precision not in ("none", "ieee")
    ]
    for backend, _ in lowered:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in lowered:
            backend.fp32_precision = precision
