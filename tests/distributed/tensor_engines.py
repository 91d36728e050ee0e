"""Engines under tensor parallelism: a case, its JSON, and how it is trained."""

from dataclasses import dataclass, field
from typing import Any

import deepspeed

from tests.distributed.fused_model import Mpu, cut_as_megatron
from tests.distributed.model import SAMPLES
from tests.distributed.precisions import PRECISIONS
from tests.distributed.recipes import RECIPES
from tests.distributed.tensor_model import MODELS, data_rank, tensor_batch


@dataclass(frozen=True)
class TensorCase:
    """One engine under AutoTP."""

    optimizer: str
    stage: int
    precision: str = "fp32"
    accumulation: int = 1
    clipping: float = 0.0
    tensor: int = 2
    model: str = "LLaMA"
    params: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-4

    @property
    def name(self) -> str:
        """For ``job_id``."""
        options = {**self.params, **self.extra}
        return " ".join(
            [
                f"{self.model} {self.optimizer} stage{self.stage} {self.precision}",
                f"accumulation{self.accumulation} clipping{self.clipping:g}",
                *(f"{key} {value}" for key, value in options.items()),
            ]
        )

    @property
    def config(self) -> dict[str, Any]:
        """The JSON."""
        recipe, model = RECIPES[self.optimizer].config, MODELS[self.model]
        cut = {"autotp_size": self.tensor, **model.tensor_parallel}
        return {
            "train_micro_batch_size_per_gpu": 2 * SAMPLES,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clipping,
            "zero_optimization": {"stage": self.stage},
            "optimizer": {**recipe, "params": {**recipe["params"], **model.params, **self.params}},
            **({} if self.model == "Megatron" else {"tensor_parallel": cut}),
            **PRECISIONS[self.precision],
            **self.extra,
        }


def start(case: TensorCase) -> Any:
    """The engine of a case."""
    model, mpu = MODELS[case.model].build(), None
    if case.model == "Megatron":
        mpu = Mpu(case.tensor)
        model = cut_as_megatron(model, mpu)
    return deepspeed.initialize(model=model, config=case.config, mpu=mpu)[0]


def train(engine: Any, steps: range) -> None:
    """Take optimizer steps, with the accumulation that the engine is set to."""
    for step in steps:
        for micro in range(engine.gradient_accumulation_steps()):
            engine.backward(engine(tensor_batch(step, micro, data_rank(engine))))
            engine.step()
