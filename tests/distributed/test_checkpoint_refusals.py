"""Checkpoints that do not fit are refused before anything is overwritten."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from gradopt_ds.checkpoint import FORMAT, KEY
from tests.distributed import engines
from tests.distributed.checkpoint_cases import EXCLUDED, STAGE_2, STAGE_3, Case, engine_config
from tests.distributed.checkpoint_engines import (
    GLOBAL_BATCH,
    assert_equal,
    assert_refused,
    own_folder,
    save,
    saved_once,
    start,
    train,
    weights,
    whole_state,
)
from tests.distributed.engines import assert_raises
from tests.distributed.harness import distributed
from tests.distributed.model import build_model


@distributed(2)
def test_another_optimizer_is_refused() -> None:
    """At every stage, before anything is overwritten."""
    polargrad = [Case("PolarGrad", stage) for stage in (0, 1, 2, 3)]
    powered = replace(polargrad[2], params={"power": 1.2})
    for saved, loaded, message in (
        *((case, Case("SWAN", case.stage), "by PolarGrad, not by SWAN") for case in polargrad),
        (powered, polargrad[2], "by GradPower(PolarGrad), not by PolarGrad"),
        (polargrad[2], powered, "by PolarGrad, not by GradPower(PolarGrad)"),
        (Case("MuonPower", 2), powered, "by GradPower(Muon), not by GradPower(PolarGrad)"),
    ):
        engine = start(loaded, seed=7)
        assert_refused(engine, saved_once(saved), f"this checkpoint was saved {message}")
        engine.destroy()


@distributed(2)
def test_adamw_of_deepspeed_is_refused() -> None:
    """AdamPower does not go on with state that has seen gradients as they are."""
    adamw = {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}}
    for stage in (0, 1, 2, 3):
        path = own_folder(f"AdamW {stage}")
        save(Case("AdamPower", stage), path, optimizer=adamw)
        engine = start(Case("AdamPower", stage))
        assert_refused(engine, path, "does not say which parameters it holds")
        engine.destroy()


@distributed(2, 3)
def test_a_foreign_checkpoint_is_refused() -> None:
    """PolarGrad's momentum is not resumed by SWAN; AdamW's state not by AdamPower."""
    adamw = {"lr": 1e-3, "torch_adam": True}
    for saved, params, loaded, message in (
        ("PolarGrad", engines.POLAR, "SWAN", "saved by PolarGrad, not by SWAN"),
        ("AdamW", adamw, "AdamPower", "does not say which parameters it holds"),
    ):
        engine = engines.start(engines.config(saved, params))
        engines.train(engine, range(1))
        path = own_folder(f"foreign {saved}")
        engine.save_checkpoint(path, tag="other")
        other = engines.start(engines.config(loaded, {"lr": 0.1}))
        assert_raises(ValueError, message, lambda: other.load_checkpoint(path))


@distributed(2)
def test_other_parameters_are_refused() -> None:
    """Another set of matrices, and another model."""
    for stage in (0, 1, 2, 3):
        engine = start(Case("PolarGrad", stage, params=EXCLUDED))
        message = "'blocks.0.square.weight' was matrix of shape (12, 12) in group 0 and is aux"
        assert_refused(engine, saved_once(Case("PolarGrad", stage)), message)
        engine.destroy()
    for case in (Case("PolarGrad", 1), Case("PolarGrad", 3)):
        wider = build_model()
        wider.blocks[0].up = nn.Linear(12, 24)
        wider.blocks[0].odd = nn.Linear(24, 7, bias=False)
        config = engine_config(case, GLOBAL_BATCH // dist.get_world_size())
        engine = deepspeed.initialize(model=wider, config=config)[0]
        message = "'blocks.0.up.weight' was matrix of shape (23, 12) in group 0"
        assert_refused(engine, saved_once(case), message)
        engine.destroy()


@distributed(2)
def test_another_format_is_refused() -> None:
    """What a later version writes is not guessed at."""
    for stage in (0, 2, 3):
        case = Case("PolarGrad", stage)
        original, path = saved_once(case), own_folder(f"format {stage}")
        if dist.get_rank() == 0:
            shutil.copytree(original, path)
            for file in Path(path, "half").glob("*.pt"):
                saved = torch.load(file, weights_only=False)
                for record in _records(saved):
                    record["format"] = FORMAT + 1
                torch.save(saved, file)
        dist.barrier()
        engine = start(case)
        assert_refused(
            engine, path, f"has format {FORMAT + 1} and this version of gradopt_ds reads"
        )
        engine.destroy()


def _records(saved: Any) -> list[dict[str, Any]]:
    if not isinstance(saved, dict):
        return []
    inside = [record for value in saved.values() for record in _records(value)]
    return [*inside, saved[KEY]] if isinstance(saved.get(KEY), dict) else inside


@distributed(2)
def test_other_slices_are_refused() -> None:
    """The same parameters on the same ranks, cut or ordered differently."""
    reordered = Case("PolarGrad", 2, zero={"round_robin_gradients": True})
    for saved, loaded, message in (
        (STAGE_2, reordered, "slices are cut differently"),
        (STAGE_3, Case("PolarGrad", 3), "slices are cut differently"),
        (STAGE_2, STAGE_3, "slices are cut differently (ZeRO stage 2 then, 3 now"),
        (STAGE_3, STAGE_2, "slices are cut differently (ZeRO stage 3 then, 2 now"),
        (Case("PolarGrad", 0), STAGE_2, "saved at another ZeRO stage"),
        (STAGE_2, Case("PolarGrad", 0), "saved at another ZeRO stage"),
        (STAGE_2, Case("PolarGrad", 2, "bf16"), "in another precision"),
    ):
        engine = start(loaded, seed=7)
        assert_refused(engine, saved_once(saved), message)
        engine.destroy()


@distributed(2)
def test_weights_alone_load_into_any_optimizer() -> None:
    """What the refusals advise: masters and weights are the saved ones, state begins anew."""
    for stage in (0, 1, 2, 3):
        saved = replace(STAGE_3 if stage == 3 else Case("PolarGrad", stage), precision="bf16")
        path = saved_once(saved)
        expected = start(saved)
        expected.load_checkpoint(path)
        engine = start(replace(saved, optimizer="SWAN"), seed=7)
        engine.load_checkpoint(path, load_module_only=True, load_optimizer_states=False)
        assert_equal(weights(expected), weights(engine), saved.name)
        if stage:
            masters = {n: w for n, w in whole_state(engine).items() if n.endswith(".fp32")}
            for name, weight in weights(engine).items():
                assert torch.equal(masters[f"{name}.fp32"].to(weight.dtype), weight), name
        before = weights(engine)
        train(engine, range(1))
        for name, weight in weights(engine).items():
            assert (weight - before[name]).norm() < 0.5 * weight.norm(), name
        expected.destroy()
        engine.destroy()
