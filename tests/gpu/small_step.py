"""Two steps of each optimizer on a small model, for the tools that watch a process.

``compute-sanitizer python -m tests.gpu.small_step`` looks for illegal memory accesses;
``TORCH_CUDA_SANITIZER=1 python -m tests.gpu.small_step`` for races between streams.
"""

import sys

import torch

from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.registry import OPTIMIZERS
from tests.distributed.model import build_model, micro_batch


def main(device: torch.device) -> None:
    for name in OPTIMIZERS:
        for dtype in (torch.float32, torch.bfloat16):
            model = build_model().to(device, dtype)
            optimizer = build_optimizer(name, {}, model, model.parameters())
            for step in range(2):
                model.zero_grad()
                model(micro_batch(step, 0, 0).to(device)).backward()
                optimizer.step()
            weights = [param.detach().float() for param in model.parameters()]
            assert all(bool(weight.isfinite().all()) for weight in weights), name
    print("stepped", len(OPTIMIZERS), "optimizers")


if __name__ == "__main__":
    main(torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda"))
