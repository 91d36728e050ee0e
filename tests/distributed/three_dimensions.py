"""Tensor × pipeline × data parallelism on 8 ranks, against one process.

Not among the tests that run by themselves: eight processes take longer to start than to train.
``pytest tests/distributed/three_dimensions.py --errors``
"""

from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import nn

from tests.distributed.checkpoint_engines import assert_equal
from tests.distributed.fused_model import (
    HIDDEN,
    TOKENS,
    ColumnParallelLinear,
    FusedBlock,
    RowParallelLinear,
)
from tests.distributed.harness import distributed, folder, record
from tests.distributed.observe import array
from tests.distributed.pipeline_cases import PipelineCase
from tests.distributed.pipeline_model import OneProcess, batches, fill, loss, project
from tests.distributed.recipes import RECIPES
from tests.distributed.test_pipeline import gradients_of_one_process, whole_model
from tests.reference import Array, StackedReference

PARTS = (8, 8, 8)
SUBS = {"qkv": PARTS, "gate_up": (10, 10)}
"""Rows of the matrices in fused weights, of each of which every tensor rank has an equal part."""

CASES = [
    PipelineCase("3-D", "PolarGrad", 1, accumulation=2, clipping=0.05),
    PipelineCase("3-D", "SWAN", 0, accumulation=2, clipping=0.05),
    PipelineCase("3-D", "AdamPower", 1, clipping=0.05),
]


def layers() -> list[Any]:
    """Tied embedding and head, and a block on each of two stages."""
    block, norm = LayerSpec(FusedBlock, PARTS), LayerSpec(nn.LayerNorm, HIDDEN)
    place = ("embed", nn.Embedding, TOKENS, HIDDEN)
    return [
        TiedLayerSpec(*place),
        block,
        norm,
        block,
        norm,
        TiedLayerSpec(*place, forward_fn=project),
    ]


@distributed(8, cases=CASES)
def test_a_step_is_that_of_one_process(case: PipelineCase) -> None:
    """Two tensor-parallel ranks, two stages, two data-parallel ranks."""
    engine = start(case)
    twin = OneProcess(layers()).double()
    recipe = RECIPES[case.optimizer]
    before = whole(engine, twin)
    references = {
        name: StackedReference(recipe.matrices, weight, lambda w, n=name: matrices_in(n, w))
        if is_matrix(name)
        else StackedReference(recipe.others, weight, lambda w: [w])
        for name, weight in before.items()
    }
    for step in range(3):
        gradients = gradients_of_one_process(twin, case, step, engine)
        train(engine, case, range(step, step + 1))
        after = whole(engine, twin)
        for name, reference in references.items():
            reference.weight = before[name].copy()
            reference.step(gradients[name])
            expected = reference.weight - before[name]
            error = np.linalg.norm(after[name] - reference.weight) / np.linalg.norm(expected)
            assert error <= 1e-4, f"{name} at step {step}: {error}"
            record(error=float(error))
        for name, param in twin.named_parameters():
            param.data.copy_(param.data.new_tensor(after[name]))
        before = after
    engine.destroy()


@distributed(8, cases=CASES[:2])
def test_a_resume_is_bit_equal(case: PipelineCase) -> None:
    """Every rank's weights and state, from its own files."""
    unbroken = start(case)
    train(unbroken, case, range(1))
    path = folder(f"3-D {case.name}")
    unbroken.save_checkpoint(path, tag="one")
    dist.barrier()
    train(unbroken, case, range(1, 3))
    resumed = start(case)
    resumed.load_checkpoint(path)
    train(resumed, case, range(1, 3))
    for one, other in zip(unbroken.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(one, other)
    assert_equal(unbroken.optimizer.state_dict(), resumed.optimizer.state_dict(), case.name)
    unbroken.destroy()
    resumed.destroy()


def train(engine: Any, case: PipelineCase, steps: range) -> None:
    """Take steps."""
    for step in steps:
        engine.train_batch(batches(step, case.accumulation, engine.grid.get_data_parallel_rank()))


def start(case: PipelineCase) -> Any:
    """An engine whose blocks are cut as Megatron's."""
    module = PipelineModule(
        layers(),
        topology=PipeModelDataParallelTopology(num_pp=2, num_mp=2, num_dp=2),
        loss_fn=loss,
        partition_method="uniform",
    )
    fill(module)
    unit: Any = SimpleNamespace(groups={"tensor_model": module.mpu().get_slice_parallel_group()})
    for block in module.modules():
        if isinstance(block, FusedBlock):
            block.qkv = ColumnParallelLinear(block.qkv, unit, 0, stride=3)
            block.gate_up = ColumnParallelLinear(block.gate_up, unit, 0, stride=2)
            for name in ("from_q", "from_kv", "down"):
                setattr(block, name, RowParallelLinear(getattr(block, name), unit, 1))
    config = case.config()
    if case.optimizer != "AdamPower":
        config["optimizer"] = {**config["optimizer"], "params": {
            **config["optimizer"]["params"],
            "split": {"*.qkv.weight": list(PARTS), "*.gate_up.weight": 2},
        }}  # fmt: skip
    return deepspeed.initialize(model=module, config=config)[0]


def is_matrix(name: str) -> bool:
    """What must get the matrix rule."""
    return name.split(".")[1] in ("qkv", "gate_up", "from_q", "from_kv", "down")


def matrices_in(name: str, weight: Array) -> list[Array]:
    """The matrices that lie in a weight."""
    sizes = SUBS.get(name.split(".")[1], (len(weight),))
    return rows(weight, sizes)


def rows(weight: Array, sizes: Any) -> list[Array]:
    """Consecutive rows, so many at a time."""
    return [weight[a:b] for a, b in pairwise([0, *accumulate(sizes)])]


def whole(engine: Any, twin: OneProcess) -> dict[str, Array]:
    """All weights of the model; copies of one must be equal."""
    mine = {name: array(param) for name, param in engine.module.named_parameters()}
    group = engine.grid.get_slice_parallel_group()
    everywhere: list[dict[str, Array]] = [{}, {}]
    dist.all_gather_object(everywhere, mine, group=group)
    shapes = {name: tuple(param.shape) for name, param in twin.named_parameters()}
    joined = {}
    for name in mine:
        first, second = (theirs[name] for theirs in everywhere)
        axes = [axis for axis, size in enumerate(shapes[name]) if first.shape[axis] != size]
        sizes = SUBS.get(name.split(".")[1])
        if not axes:
            assert np.array_equal(first, second), f"copies of {name} differ"
            joined[name] = first
        elif sizes:
            halves = [rows(part, [size // 2 for size in sizes]) for part in (first, second)]
            joined[name] = np.concatenate([h for pair in zip(*halves, strict=True) for h in pair])
        else:
            joined[name] = np.concatenate([first, second], axes[0])
    model = whole_model(engine, joined)
    for name, weight in joined.items():
        assert np.array_equal(weight, model[name]), f"the stages' copies of {name} differ"
    return model
