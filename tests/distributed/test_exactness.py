"""What N ranks compute equals what the float64 reference computes from the same gradients.

``pytest tests/distributed/test_exactness.py -k "3ranks and stage3" --errors`` prints the errors,
worst first.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import deepspeed
import numpy as np
import torch
from torch import Tensor, nn

from tests.distributed.cases import CASES, Case
from tests.distributed.conditional_model import MATRICES as CONDITIONAL_MATRICES
from tests.distributed.conditional_model import ConditionalLM, build_conditional
from tests.distributed.engines import forward_backward
from tests.distributed.harness import distributed, record
from tests.distributed.interwoven_model import MATRICES as INTERWOVEN_MATRICES
from tests.distributed.interwoven_model import InterwovenLM, build_interwoven
from tests.distributed.model import MATRICES, SAMPLES, TinyLM, build_model
from tests.distributed.moe_model import MATRICES as MOE_MATRICES
from tests.distributed.moe_model import MATRICES_WITH_HEADS, TinyMoe, build_moe, whole
from tests.distributed.observe import (
    captured_gradients,
    clipped,
    in_last_places,
    masters,
    single_process_gradients,
)
from tests.distributed.precisions import PRECISIONS
from tests.distributed.recipes import RECIPES
from tests.distributed.sequence_model import MATRICES as LLAMA_MATRICES
from tests.distributed.sequence_model import CutLlama, build_whole
from tests.reference import Array, StackedReference

MODELS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "dense": (build_model, TinyLM),
    "Qwen2MoE": (build_moe, TinyMoe),
    "conditional": (build_conditional, ConditionalLM),
    "LLaMA": (build_whole, CutLlama),
    "LLaMA, loss gathered": (build_whole, partial(CutLlama, is_gathered=True)),
    "interwoven": (build_interwoven, InterwovenLM),
}
"""How the twin is built, and the model that gets its weights."""

STEPS = 3


def deepspeed_config(case: Case) -> dict[str, Any]:
    """The JSON of one case."""
    return {
        "train_micro_batch_size_per_gpu": SAMPLES,
        "gradient_accumulation_steps": case.accumulation,
        "gradient_clipping": case.clipping,
        "zero_optimization": {"stage": case.stage, **case.zero},
        "optimizer": case.optimizer_config,
        **case.extra,
        **PRECISIONS[case.precision],
    }


@distributed(2, 3, cases=CASES)
def test_step_equals_the_reference(case: Case) -> None:
    """Every optimizer, stage, precision, accumulation, clipping and layout option."""
    worst = worst_errors(case)
    record(**worst)
    assert worst["matrices"] <= case.tolerance
    assert worst["others"] <= case.tolerance


def worst_errors(case: Case, mpu: Any = None) -> dict[str, float]:
    """Worst relative error of any parameter's update, over all steps."""
    build_twin, build = MODELS[case.model]
    twin, matrices = build_twin(), _matrices(case)
    config = deepspeed_config(case)
    with deepspeed.zero.Init(config_dict_or_path=config, enabled=case.zero_init):
        model = build()
    _copy_weights(twin, model)
    engine, *_ = deepspeed.initialize(model=model, config=config, mpu=mpu)
    recipe = RECIPES[case.optimizer]
    matrix_rule = replace(recipe.matrices, **case.rule)
    names = [name for name, _ in engine.module.named_parameters()]
    before = masters(engine)
    references = {
        name: StackedReference(matrix_rule, before[name], matrices[name])
        if name in matrices
        else StackedReference(recipe.others, before[name], whole)
        for name in names
    }
    worst = {"matrices": 0.0, "others": 0.0}
    for step in range(STEPS):
        gradients = _train_step(engine, twin, step, case)
        after = masters(engine)
        for name in names:
            reference = references[name]
            reference.weight = before[name].copy()
            reference.step(gradients[name])
            expected = reference.weight - before[name]
            deviation = after[name] - before[name] - expected
            relative = float(np.linalg.norm(deviation) / np.linalg.norm(expected))
            if case.precision == "pure bf16":
                relative = in_last_places(deviation, after[name])
            kind = "matrices" if name in matrices else "others"
            # `max` would let a NaN pass.
            assert np.isfinite(relative), f"{case.name}: {name} at step {step}: {relative}"
            worst[kind] = max(worst[kind], relative)
        before = after
        _copy_weights(engine.module, twin)
    engine.destroy()
    return worst


def _matrices(case: Case) -> Mapping[str, Callable[[Array], list[Array]]]:
    """What must get the matrix rule, and how to take the matrices out of it."""
    if case.model == "dense":
        return dict.fromkeys(MATRICES, whole)
    if case.model == "conditional":
        return dict.fromkeys(CONDITIONAL_MATRICES, whole)
    if case.model.startswith("LLaMA"):
        return dict.fromkeys(LLAMA_MATRICES, whole)
    if case.model == "interwoven":
        return INTERWOVEN_MATRICES
    return MATRICES_WITH_HEADS if "split" in case.params else MOE_MATRICES


def _train_step(engine: Any, twin: nn.Module, step: int, case: Case) -> dict[str, np.ndarray]:
    """One optimizer step; returns the averaged, unscaled, clipped gradients in float64."""
    forward_backward(engine, step)
    gradients = single_process_gradients(twin, step, case.accumulation)
    if not case.zero.get("round_robin_gradients"):
        # What the optimizer is about to get, to the last bit. With round-robin gradients
        # DeepSpeed's own look-up goes to the wrong elements, and the single process is the truth.
        captured = captured_gradients(engine)
        if case.precision == "fp32":
            _assert_close(captured, gradients, case)
        # A parameter that nobody used has no gradient, whatever the engine keeps of it.
        gradients = {n: captured[n] if g.any() else g for n, g in gradients.items()}
    engine.step()
    return clipped(gradients, case.clipping)


def _assert_close(
    actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], case: Case
) -> None:
    for name, gradient in expected.items():
        error = np.linalg.norm(actual[name] - gradient) / (np.linalg.norm(gradient) or 1.0)
        assert error < 1e-5, f"{case.name}: gradient of {name} is off by {error}"


def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for from_, to in zip(source.parameters(), target.parameters(), strict=True):
            with _whole(from_, False), _whole(to, True):
                to.copy_(from_)


def _whole(param: Tensor, is_written: bool) -> Any:
    """Where ZeRO stage 3 has cut a parameter, put it together for a while."""
    return deepspeed.zero.GatheredParameters(
        [param], modifier_rank=0 if is_written else None, enabled=hasattr(param, "ds_id")
    )
