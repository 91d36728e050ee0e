"""What T x D ranks compute under AutoTP equals what one process computes in float64."""

from typing import Any

import numpy as np
import torch
from deepspeed.utils import safe_get_full_grad
from torch import nn

from tests.distributed.cases import BF16_ACCUMULATING_IN_FP32, STOCHASTIC
from tests.distributed.harness import distributed, record
from tests.distributed.moe_model import whole
from tests.distributed.observe import array, clipped, in_last_places, masters
from tests.distributed.recipes import RECIPES
from tests.distributed.tensor_engines import TensorCase, start
from tests.distributed.tensor_model import (
    MODELS,
    Model,
    data_rank,
    data_size,
    joined,
    tensor_batch,
)
from tests.reference import Array, StackedReference

WIRE = {"exchange_bucket_size": 4000, "exchange_strategy": {"*.down_proj.weight": "owner"}}
"""Several rounds."""

STEPS = 2


CASES = {
    2: [
        TensorCase("PolarGrad", 0, clipping=0.05, accumulation=2),
        TensorCase("PolarGrad", 0, "bf16", model="LLaMA tied"),
        TensorCase("MuonPower", 1, model="LLaMA biases", clipping=0.05),
        TensorCase("SWAN", 1, "bf16", 2, 0.05, extra=BF16_ACCUMULATING_IN_FP32),
        TensorCase("PolarGrad polar first", 2, "autocast", 1, 0.05, model="LLaMA tied"),
        TensorCase("SWANPower", 2, "bf16", 2, 0.05, model="fused"),
        TensorCase("SWAN", 2, model="Qwen2MoE", clipping=0.05),
        TensorCase("SWAN", 2, "pure bf16", tolerance=2.5),
        TensorCase("AdamPower", 2, clipping=0.05),
        TensorCase("PolarGrad", 0, model="Megatron", clipping=0.05),
        TensorCase("SWAN", 2, "bf16", model="Megatron", clipping=0.05),
    ],
    3: [
        TensorCase("PolarGrad", 2, model="LLaMA uneven", tensor=3, clipping=0.05),
        TensorCase("SWAN", 0, model="LLaMA uneven", tensor=3),
        TensorCase("SWAN", 2, "pure bf16", 2, 0.0, 3, "LLaMA uneven", STOCHASTIC, tolerance=2.5),
    ],
    4: [
        TensorCase("SWAN", 2, accumulation=2, clipping=0.05, params=WIRE),
        TensorCase("PolarGrad", 1, model="fused", clipping=0.05),
        TensorCase("PolarGrad", 0, model="LLaMA biases"),
        TensorCase("PolarGrad", 1, model="Megatron", clipping=0.05),
    ],
}


@distributed(2, 3, 4, cases=CASES)
def test_step_equals_one_process(case: TensorCase) -> None:
    """Gradients, clipping, update and copies, for every parameter."""
    worst = worst_errors(case)
    record(**worst)
    assert max(worst.values()) <= case.tolerance, worst


def worst_errors(case: TensorCase) -> dict[str, float]:
    """Worst relative error of any parameter's update, over all steps."""
    model = MODELS[case.model]
    twin, engine = model.build().double(), start(case)
    recipe = RECIPES[case.optimizer]
    before = joined(engine, masters(engine), twin, model)
    references = {
        name: StackedReference(
            recipe.matrices if name in model.matrices else recipe.others,
            before[name],
            model.matrices.get(name, whole),
        )
        for name in before
    }
    worst = {"matrices": 0.0, "others": 0.0}
    for step in range(STEPS):
        gradients = train_step(engine, twin, step, case)
        after = joined(engine, masters(engine), twin, model)
        for name, reference in references.items():
            reference.weight = before[name].copy()
            reference.step(gradients[name])
            expected = reference.weight - before[name]
            deviation = after[name] - before[name] - expected
            relative = float(np.linalg.norm(deviation) / np.linalg.norm(expected))
            if case.precision == "pure bf16":
                relative = in_last_places(deviation, after[name])
            assert np.isfinite(relative), name
            kind = "matrices" if name in model.matrices else "others"
            worst[kind] = max(worst[kind], relative)
        before = after
        copy_whole(engine, twin, model)
    engine.destroy()
    return worst


def train_step(engine: Any, twin: nn.Module, step: int, case: TensorCase) -> dict[str, Array]:
    """One optimizer step; returns the gradients of one process, clipped."""
    for micro in range(case.accumulation):
        engine.backward(engine(tensor_batch(step, micro, data_rank(engine))))
        if micro < case.accumulation - 1:
            engine.step()
    gradients = one_process(twin, step, case.accumulation, data_size(engine))
    captured = {
        name: array(safe_get_full_grad(param)) for name, param in engine.module.named_parameters()
    }
    captured = joined(engine, captured, twin, MODELS[case.model])
    for name, gradient in gradients.items():
        error = np.linalg.norm(captured[name] - gradient) / np.linalg.norm(gradient)
        record(gradients=float(error))
        assert error < (1e-5 if case.precision == "fp32" else 0.2), f"{name} is off by {error}"
    engine.step()
    # AdamW divides by what may be rounding alone: it is judged by what it got, to the last bit.
    is_adam = RECIPES[case.optimizer].matrices.algorithm == "AdamW"
    own = () if is_adam or case.precision != "fp32" else MODELS[case.model].matrices
    return clipped(
        {name: gradients[name] if name in own else captured[name] for name in captured},
        case.clipping,
    )


def one_process(twin: nn.Module, step: int, accumulation: int, ranks: int) -> dict[str, Array]:
    """What one process computes from the micro-batches of all data-parallel ranks."""
    twin.zero_grad()
    for rank in range(ranks):
        for micro in range(accumulation):
            (twin(tensor_batch(step, micro, rank)) / (ranks * accumulation)).backward()
    return {n: array(p.grad) for n, p in twin.named_parameters() if p.grad is not None}


def copy_whole(engine: Any, twin: nn.Module, model: Model) -> None:
    """Give the twin the engine's weights."""
    shards = {name: array(param) for name, param in engine.module.named_parameters()}
    for name, value in joined(engine, shards, twin, model).items():
        twin.get_parameter(name).data.copy_(torch.from_numpy(value))
