"""Checkpoints of tensor-parallel ranks: resumed bit by bit on as many, refused on others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gradopt_ds.integration.checkpoints.universal import convert
from tests.distributed.checkpoint_engines import assert_equal, own_folder
from tests.distributed.engines import SWAN_PARAMS, assert_raises, config
from tests.distributed.engines import start as start_data_parallel
from tests.distributed.harness import distributed
from tests.distributed.observe import masters
from tests.distributed.parallel_state import forget_engines
from tests.distributed.tensor_engines import TensorCase, start, train
from tests.distributed.tensor_model import (
    MODELS,
    build_llama,
    joined,
    tensor_batch,
)
from tests.reference import Array

HALF, END = 1, 3

RESUMED = [
    TensorCase("PolarGrad", 0, model="LLaMA biases"),
    TensorCase("PolarGrad", 0, "bf16"),
    TensorCase("PolarGrad", 2, "bf16", clipping=0.05),
    TensorCase("MuonPower", 1, model="Megatron"),
]


def weights(engine: Any) -> dict[str, Tensor]:
    """Of this rank."""
    return {name: param.detach().clone() for name, param in engine.module.named_parameters()}


def other_start(case: TensorCase) -> Any:
    """An engine on other weights, the same on all ranks."""
    engine = start(case)
    train(engine, range(7, 8))
    return engine


@distributed(2, 4, cases={2: RESUMED, 4: RESUMED[2:3]})
def test_a_resume_is_bit_equal(case: TensorCase) -> None:
    """Save, load into an engine that has gone another way, go on: as if never broken."""
    unbroken = start(case)
    train(unbroken, range(HALF))
    path = own_folder(f"tensor {case.name}")
    unbroken.save_checkpoint(path, tag="half")
    at_half = weights(unbroken)
    train(unbroken, range(HALF, END))
    resumed = other_start(case)
    assert any(not torch.equal(w, at_half[name]) for name, w in weights(resumed).items())
    resumed.load_checkpoint(path)
    train(resumed, range(HALF, END))
    assert_equal(weights(unbroken), weights(resumed), case.name)
    assert_equal(unbroken.optimizer.state_dict(), resumed.optimizer.state_dict(), case.name)


@distributed(4)
def test_another_number_of_tensor_ranks_is_refused() -> None:
    """On all ranks, before anything is overwritten."""
    case = TensorCase("SWAN", 2)
    path = own_folder("tensor ranks")
    engine = start(case)
    engine.save_checkpoint(path, tag="one")
    forget_engines()
    elsewhere = start(replace(case, tensor=4, model="LLaMA uneven"))
    before = weights(elsewhere)
    assert_raises(
        ValueError,
        "saved by 2 tensor-parallel ranks, and there are 4 now",
        lambda: elsewhere.load_checkpoint(path),
    )
    assert_equal(before, weights(elsewhere))
    forget_engines()
    without = start_data_parallel(config("SWAN", SWAN_PARAMS), model=build_llama())
    assert_raises(
        ValueError,
        "saved by 2 tensor-parallel ranks, and there are 1 now",
        lambda: without.load_checkpoint(path),
    )
    dist.barrier()


MOVED = TensorCase("PolarGrad", 2, "bf16", clipping=0.05, model="LLaMA uneven")


def whole_masters(engine: Any, case: TensorCase) -> dict[str, Array]:
    """The fp32 weights of the whole model."""
    model = MODELS[case.model]
    return joined(engine, masters(engine), model.build(), model)


@distributed(4)
def test_universal_goes_on_with_other_tensor_ranks() -> None:
    """From 2 x 2 ranks to 4 x 1 and to 1 x 4: the same weights and state, and the same steps."""
    path = own_folder("tensor universal")
    engine = start(MOVED)
    train(engine, range(HALF))
    engine.save_checkpoint(path, tag="half")
    expected = whole_masters(engine, MOVED)
    train(engine, range(HALF, END))
    end = whole_masters(engine, MOVED)
    if dist.get_rank() == 0:
        convert(Path(path, "half"), Path(path, "universal"))
    dist.barrier()
    universal = {"checkpoint": {"load_universal": True}}
    forget_engines()
    moved = replace(MOVED, tensor=4, extra=universal)
    elsewhere = other_start(moved)
    elsewhere.load_checkpoint(path, tag="universal")
    actual = whole_masters(elsewhere, moved)
    assert all((actual[name] == expected[name]).all() for name in expected)
    data = 2
    for step in range(HALF, END):
        # The batches of both data-parallel ranks, as one.
        batch = torch.cat([tensor_batch(step, 0, rank) for rank in range(data)])
        elsewhere.backward(elsewhere(batch))
        elsewhere.step()
    actual = whole_masters(elsewhere, moved)
    for name, weight in end.items():
        moved_by = np.linalg.norm(weight - expected[name])
        assert np.linalg.norm(actual[name] - weight) < 0.1 * moved_by, name
    forget_engines()
    config = {**without_tensor(MOVED), **universal}
    alone = deepspeed.initialize(model=build_llama(seed=7, kv_heads=4), config=config)[0]
    alone.load_checkpoint(path, tag="universal")
    for name, weight in masters(alone).items():
        assert (weight == expected[name]).all(), name


def without_tensor(case: TensorCase) -> dict[str, Any]:
    """The JSON for data parallelism alone."""
    return {key: value for key, value in case.config.items() if key != "tensor_parallel"}
