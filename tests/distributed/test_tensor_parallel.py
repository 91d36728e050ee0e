"""What T x D ranks compute under AutoTP equals what one process computes in float64."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from deepspeed.utils import safe_get_full_grad

from tests.distributed.harness import distributed, record
from tests.distributed.model import SAMPLES
from tests.distributed.moe_model import whole
from tests.distributed.observe import array, clipped, masters
from tests.distributed.recipes import RECIPES
from tests.distributed.tensor_model import (
    MATRICES,
    build_llama,
    data_rank,
    data_size,
    joined,
    separate_parallelism,
    start_tensor,
    tensor_batch,
)
from tests.reference import Array, StackedReference

STEPS = 2


@dataclass(frozen=True)
class TensorCase:
    """One engine under AutoTP."""

    optimizer: str
    stage: int
    precision: str = "fp32"
    accumulation: int = 1
    clipping: float = 0.0
    tensor: int = 2
    model: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-4

    @property
    def name(self) -> str:
        """For ``job_id``."""
        options = {**self.model, **self.params, **self.extra}
        return " ".join(
            [
                f"{self.optimizer} stage{self.stage} {self.precision} tensor{self.tensor}",
                f"accumulation{self.accumulation} clipping{self.clipping:g}",
                *(f"{key} {value}" for key, value in options.items()),
            ]
        )

    @property
    def config(self) -> dict[str, Any]:
        """The JSON."""
        recipe = RECIPES[self.optimizer].config
        precision: dict[str, Any] = {
            "fp32": {},
            "bf16": {"bf16": {"enabled": True}},
            "autocast": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
        }[self.precision]
        return {
            "train_micro_batch_size_per_gpu": 2 * SAMPLES,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clipping,
            "zero_optimization": {"stage": self.stage},
            "tensor_parallel": {"autotp_size": self.tensor},
            "optimizer": {**recipe, "params": {**recipe["params"], **self.params}},
            **precision,
            **self.extra,
        }


CASES = [
    TensorCase("SWAN", 2),
    TensorCase("PolarGrad", 1, clipping=0.05, accumulation=2),
    TensorCase("PolarGrad", 0, clipping=0.05),
    TensorCase("PolarGrad", 0, "bf16"),
    TensorCase("SWAN", 2, "bf16", 2, 0.05),
    TensorCase("SWAN", 1, "bf16", 2, 0.05, extra={"data_types": {"grad_accum_dtype": "fp32"}}),
    TensorCase("SWAN", 1, "autocast", 1, 0.05),
    TensorCase("SWAN", 2, model={"tied": True}, clipping=0.05),
    TensorCase("SWAN", 2, model={"biases": True}, clipping=0.05),
]


@distributed(2, 4, cases=CASES)
def test_step_equals_one_process(case: TensorCase) -> None:
    """Gradients, clipping, update and copies, for every parameter."""
    with separate_parallelism():
        worst = worst_errors(case)
    record(**worst)
    assert max(worst.values()) <= case.tolerance, worst


def worst_errors(case: TensorCase) -> dict[str, float]:
    """Worst relative error of any parameter's update, over all steps."""
    twin, model = build_llama(**case.model).double(), build_llama(**case.model)
    engine = start_tensor(model, case.config)
    recipe = RECIPES[case.optimizer]
    before = joined(engine, masters(engine), twin)
    references = {
        name: StackedReference(
            recipe.matrices if name in MATRICES else recipe.others, before[name], whole
        )
        for name in before
    }
    worst = {"matrices": 0.0, "others": 0.0}
    for step in range(STEPS):
        gradients = train_step(engine, twin, step, case)
        after = joined(engine, masters(engine), twin)
        for name, reference in references.items():
            reference.weight = before[name].copy()
            reference.step(gradients[name])
            expected = reference.weight - before[name]
            deviation = after[name] - before[name] - expected
            relative = float(np.linalg.norm(deviation) / np.linalg.norm(expected))
            assert np.isfinite(relative), name
            kind = "matrices" if name in MATRICES else "others"
            worst[kind] = max(worst[kind], relative)
        before = after
        copy_whole(engine, twin)
    engine.destroy()
    return worst


def train_step(engine: Any, twin: Any, step: int, case: TensorCase) -> dict[str, Array]:
    """One optimizer step; returns the gradients of one process, clipped."""
    for micro in range(case.accumulation):
        engine.backward(engine(tensor_batch(step, micro, data_rank(engine))))
        if micro < case.accumulation - 1:
            engine.step()
    gradients = one_process(twin, step, case.accumulation, data_size(engine))
    captured = {
        name: array(safe_get_full_grad(param)) for name, param in engine.module.named_parameters()
    }
    captured = joined(engine, captured, twin)
    for name, gradient in gradients.items():
        error = np.linalg.norm(captured[name] - gradient) / np.linalg.norm(gradient)
        record(gradients=float(error))
        assert error < (1e-5 if case.precision == "fp32" else 0.2), f"{name} is off by {error}"
    engine.step()
    # AdamW divides by what may be rounding alone: it is judged by what it got, to the last bit.
    own = MATRICES if case.precision == "fp32" else ()
    return clipped(
        {name: gradients[name] if name in own else captured[name] for name in captured},
        case.clipping,
    )


def one_process(twin: Any, step: int, accumulation: int, ranks: int) -> dict[str, Array]:
    """What one process computes from the micro-batches of all data-parallel ranks."""
    twin.zero_grad()
    for rank in range(ranks):
        for micro in range(accumulation):
            (twin(tensor_batch(step, micro, rank)) / (ranks * accumulation)).backward()
    return {name: array(param.grad) for name, param in twin.named_parameters()}


def copy_whole(engine: Any, twin: Any) -> None:
    """Give the twin the engine's weights."""
    shards = {name: array(param) for name, param in engine.module.named_parameters()}
    for name, value in joined(engine, shards, twin).items():
        twin.get_parameter(name).data.copy_(torch.from_numpy(value))
