"""Pipeline stages: save, build anew, load, go on; and what is refused."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule
from torch import Tensor, nn

from gradopt_ds.integration.checkpoints.universal import convert
from tests.distributed.checkpoint_engines import assert_equal, whole_state
from tests.distributed.engines import assert_raises, assert_same
from tests.distributed.harness import distributed, folder
from tests.distributed.model import SAMPLES, micro_batch
from tests.distributed.pipeline_cases import IN_FP32, PipelineCase
from tests.distributed.pipeline_model import (
    MODELS,
    batches,
    build_stages,
    inputs_and_labels,
    loss,
)
from tests.distributed.test_pipeline import (
    assert_copies_are_equal,
    start,
    weights_of,
    whole_model,
)

HALF, END = 2, 4

ON_2 = [
    PipelineCase("tied", "PolarGrad", 0, clipping=0.05),
    PipelineCase("untied", "SWAN", 0),
    PipelineCase("tied", "MuonPower", 1, clipping=0.05),
    PipelineCase("tied matrix", "PolarGrad", 1, "bf16", 2, 0.05, IN_FP32),
    PipelineCase("no matrix on the last stage", "PolarGrad", 1, "fp16"),
]
ON_4 = [
    PipelineCase("tied", "PolarGrad", 1, accumulation=2, clipping=0.05),
    PipelineCase("tied matrix", "SWAN", 1, "bf16"),
]


@distributed(2, 4, cases={2: ON_2, 4: ON_4})
def test_a_resume_is_bit_equal(case: PipelineCase) -> None:
    """Weights and state of every stage have the bits of a run that was never broken."""
    unbroken = start(case)
    train(unbroken, case, range(HALF))
    path = saved(unbroken, f"pipeline resume {case.name}")
    train(unbroken, case, range(HALF, END))
    resumed = started_elsewhere(case)
    resumed.load_checkpoint(path)
    assert_copies_are_equal(resumed)
    train(resumed, case, range(HALF, END))
    assert_same(weights_of(unbroken), weights_of(resumed))
    assert_equal(unbroken.optimizer.state_dict(), resumed.optimizer.state_dict(), case.name)
    unbroken.destroy()
    resumed.destroy()


@distributed(2)
def test_weights_alone_come_back() -> None:
    """Also those of a layer that both stages have."""
    case = PipelineCase("tied", "SWAN", 1)
    engine = start(case)
    train(engine, case, range(1))
    path = saved(engine, "pipeline weights alone")
    other = started_elsewhere(case)
    other.load_checkpoint(path, load_module_only=True)
    assert_same(weights_of(engine), weights_of(other))
    train(other, case, range(1))
    assert_copies_are_equal(other)
    engine.destroy()
    other.destroy()


@distributed(2)
def test_what_does_not_fit_is_refused() -> None:
    """A damaged or missing layer, another number of stages: on all ranks alike."""
    case = PipelineCase("untied", "SWAN", 1)
    engine = start(case)
    path = saved(engine, "pipeline refusals")
    flat = start(PipelineCase("untied", "SWAN", 1, pipeline_stages=1))
    assert_raises(ValueError, "saved by 2 pipeline stages", lambda: flat.load_checkpoint(path))
    assert_raises(
        ValueError,
        "saved by 1 pipeline stages, and there are 2 now",
        lambda: engine.load_checkpoint(saved(flat, "pipeline of one stage")),
    )
    layer = path / "tag" / "layer_02-model_states.pt"
    content = layer.read_bytes()
    dist.barrier()
    if engine.global_rank == 0:
        layer.write_bytes(content[:-100])
    dist.barrier()
    assert_raises(ValueError, "layer_02-model_states.pt (", lambda: engine.load_checkpoint(path))
    dist.barrier()
    if engine.global_rank == 0:
        layer.unlink()
    dist.barrier()
    assert_raises(ValueError, "there is no", lambda: engine.load_checkpoint(path))
    engine.destroy()
    flat.destroy()


UNIVERSAL = {"checkpoint": {"load_universal": True}}


@dataclass(frozen=True)
class Move:
    """A run that goes on on another number of stages."""

    run: PipelineCase
    to: int

    @property
    def name(self) -> str:
        """For ``job_id``."""
        return f"{self.run.name} from {self.run.pipeline_stages} to {self.to} stages"


@distributed(
    2,
    4,
    cases={
        2: [
            Move(PipelineCase("no matrix on the last stage", "PolarGrad", 1), 1),
            Move(PipelineCase("tied", "AdamPower", 1, pipeline_stages=1), 2),
        ],
        4: [
            Move(PipelineCase("tied", "PolarGrad", 1, "bf16", 2, extra=IN_FP32), 4),
            Move(PipelineCase("tied", "MuonPower", 1, pipeline_stages=4), 2),
        ],
    },
)
def test_a_run_goes_on_on_another_number_of_stages(case: Move) -> None:
    """Weights and state are the same bits, and the next step is the same but for rounding."""
    target = replace(case.run, pipeline_stages=case.to)
    engine = start(case.run)
    train(engine, case.run, range(HALF))
    path = saved(engine, f"pipeline universal {case.name}")
    before = whole_model(engine, whole_state(engine))
    expected = whole_model(engine, one_more_step(engine))
    if engine.global_rank == 0:
        convert(path / "tag", path / "universal")
    engine.destroy()
    dist.barrier()
    engine = started_elsewhere(target, **UNIVERSAL)
    engine.load_checkpoint(path, tag="universal")
    assert engine.global_steps == HALF
    assert_copies_are_equal(engine)
    assert any("momentum" in name or "exp_avg" in name for name in before)
    assert_equal(before, whole_model(engine, whole_state(engine)), case.name)
    for name, weight in whole_model(engine, one_more_step(engine)).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-2, atol=1e-4)
    engine.destroy()


def one_more_step(engine: Any) -> dict[str, Tensor]:
    """Weights after a step on four micro-batches, whatever the number of pipelines."""
    pipelines, rank = engine.dp_world_size, engine.grid.get_data_parallel_rank()
    engine.set_train_batch_size(SAMPLES * 4)
    mine = [inputs_and_labels(micro_batch(HALF, m, 0)) for m in range(rank, 4, pipelines)]
    engine.train_batch(iter(mine))
    return weights_of(engine)


@distributed(2)
def test_a_model_with_fewer_layers_is_refused() -> None:
    """Each stage sees its own parameters; none of them may be left over."""
    case = PipelineCase("tied", "SWAN", 1)
    engine = start(case)
    path = saved(engine, "pipeline of more layers")
    if engine.global_rank == 0:
        convert(path / "tag", path / "universal")
    engine.destroy()
    dist.barrier()
    assert_raises(ValueError, "is no parameter of the optimizer now", lambda: shorter(case, path))


def shorter(case: PipelineCase, path: Path) -> None:
    """Load into a model that has lost its second layer."""
    specs = MODELS[case.model]()
    specs[1] = LayerSpec(nn.Identity)
    arguments = {"num_stages": case.pipeline_stages, "partition_method": "uniform"}
    module = PipelineModule(specs, loss_fn=loss, **arguments)
    engine = deepspeed.initialize(model=module, config=case.config(**UNIVERSAL))[0]
    try:
        engine.load_checkpoint(path, tag="universal")
    finally:
        engine.destroy()


def train(engine: Any, case: PipelineCase, steps: range) -> None:
    """Take steps."""
    for step in steps:
        pipeline = engine.grid.get_data_parallel_rank()
        engine.train_batch(batches(step, case.accumulation, pipeline))


def saved(engine: Any, name: str) -> Path:
    """Where its checkpoint lies."""
    path = folder(f"{name} {dist.get_world_size()}")
    engine.save_checkpoint(path, tag="tag")
    dist.barrier()
    return path


def started_elsewhere(case: PipelineCase, **more: Any) -> Any:
    """An engine of a case that begins with other weights."""
    module = build_stages(case.model, case.pipeline_stages)
    with torch.no_grad():
        for param in module.parameters():
            param.add_(0.1)
    return deepspeed.initialize(model=module, config=case.config(**more))[0]
