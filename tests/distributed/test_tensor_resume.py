"""Checkpoints of tensor-parallel ranks: resumed bit by bit on as many, refused on others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gradopt_ds.integration.checkpoints.universal import convert
from tests.distributed.checkpoint_engines import assert_equal, own_folder
from tests.distributed.engines import SWAN_PARAMS, assert_raises, config
from tests.distributed.engines import start as start_data_parallel
from tests.distributed.harness import distributed
from tests.distributed.tensor_engines import TensorCase, start, train
from tests.distributed.tensor_model import build_llama, separate_parallelism

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
    with separate_parallelism():
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
    with separate_parallelism():
        engine = start(case)
        engine.save_checkpoint(path, tag="one")
    source = Path(path, "one")
    assert_raises(
        ValueError,
        "saved by 2 tensor-parallel ranks: it resumes on as many",
        lambda: convert(source, source.with_name(f"universal{dist.get_rank()}")),
    )
    with separate_parallelism():
        elsewhere = start(replace(case, tensor=4, model="LLaMA uneven"))
        before = weights(elsewhere)
        assert_raises(
            ValueError,
            "saved by 2 tensor-parallel ranks, and there are 4 now",
            lambda: elsewhere.load_checkpoint(path),
        )
        assert_equal(before, weights(elsewhere))
    without = start_data_parallel(config("SWAN", SWAN_PARAMS), model=build_llama())
    assert_raises(
        ValueError,
        "saved by 2 tensor-parallel ranks, and there are 1 now",
        lambda: without.load_checkpoint(path),
    )
    dist.barrier()
