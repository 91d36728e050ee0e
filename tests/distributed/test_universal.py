"""Checkpoints go on on another number of ranks, in the universal layout."""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.checkpoint import ds_to_universal

from gradopt_ds.integration.checkpoints.universal import convert
from gradopt_ds.integration.checkpoints.universal import main as main_of_conversion
from tests.distributed.checkpoint_cases import (
    EXCLUDED,
    SAVED,
    STAGE_2,
    STAGE_3,
    UNIVERSAL,
    Case,
    Move,
)
from tests.distributed.checkpoint_engines import (
    END,
    HALF,
    assert_equal,
    assert_refused,
    folder_of,
    own_folder,
    save,
    saved_once,
    start,
    train,
    weights,
    whole_state,
)
from tests.distributed.engines import assert_raises
from tests.distributed.harness import Job, distributed

SAVED_ON = {1: 2, 2: 3, 3: 2}
"""On how many ranks was saved what so many load."""

STAGE_0 = Case("PolarGrad", 0)
CUT_DIFFERENTLY = [Case("PolarGrad", 1), STAGE_2, STAGE_3, Case("PolarGrad", 1, "bf16 over fp32")]


def universal_folder(ranks: int, case: Case) -> Path:
    """What so many ranks have saved and converted."""
    return folder_of(ranks, "universal") / case.name


@distributed(2, 3, cases=SAVED)
def test_universal_is_saved(case: Case) -> None:
    """For other numbers of ranks; what they must find goes beside it."""
    engine = start(case)
    for group in engine.basic_optimizer.param_groups:
        group["lr"] *= 0.5  # as a schedule does
    train(engine, range(HALF))
    path = universal_folder(dist.get_world_size(), case)
    expected = {"half": facts(engine, case)}
    engine.save_checkpoint(str(path), tag="half", client_state={"note": 7})
    train(engine, range(HALF, END))
    expected["end"] = facts(engine, case)
    if dist.get_rank() == 0:
        main_of_conversion([f"{path / 'half'}", f"{path / 'universal'}"])
        torch.save(expected, path / "expected.pt")
    dist.barrier()
    engine.destroy()


def saved_elsewhere(ranks: int, case: Case) -> Job:
    """The job that saves what so many ranks load."""
    return Job(test_universal_is_saved, SAVED_ON[ranks], case)


def facts(engine: Any, case: Case) -> dict[str, Any]:
    """All that must survive a change of the number of ranks."""
    return {
        "state": whole_state(engine),
        "weights": weights(engine),
        "settings": _settings(engine),
        "steps": sorted(set(_steps_taken(engine))),
        "scaler": dict(vars(engine.optimizer.loss_scaler)) if case.precision == "fp16" else {},
        "counters": [engine.global_steps, engine.skipped_steps],
    }


def _settings(engine: Any) -> list[dict[str, Any]]:
    """Every group's settings."""
    return [
        {k: v for k, v in group.items() if k != "params"}
        for group in engine.basic_optimizer.param_groups
    ]


def _steps_taken(engine: Any) -> list[float]:
    """AdamW's counts, by slice."""
    return [float(s["step"]) for s in engine.basic_optimizer.state.values() if "step" in s]


@distributed(1, 2, 3, cases=UNIVERSAL, needs=lambda ranks, move: saved_elsewhere(ranks, move.saved))
def test_universal_goes_on_elsewhere(case: Move) -> None:
    """On other numbers of ranks: the same state to the last bit, and then the same steps."""
    saved, loaded, label = case.saved, case.loaded, case.name
    path = universal_folder(SAVED_ON[dist.get_world_size()], saved)
    expected = torch.load(path / "expected.pt", weights_only=False)
    engine = start(loaded, seed=7, universal=True)
    _, client_state = engine.load_checkpoint(str(path))
    assert client_state["note"] == 7
    facts_here = facts(engine, loaded)
    if saved.precision != loaded.precision:
        assert engine.optimizer.loss_scale == 1
        for key in ("weights", "scaler"):
            facts_here[key] = expected["half"][key]
    assert_equal(expected["half"], facts_here, label)
    train(engine, range(HALF, END))
    actual = facts(engine, loaded)
    half, end = ({**expected[at]["weights"], **expected[at]["state"]} for at in ("half", "end"))
    for name, tensor in {**actual["weights"], **actual["state"]}.items():
        if saved.precision != "fp32" and not name.endswith(".fp32"):
            continue  # Weights in half precision are rounded masters.
        moved = (end[name] - half[name]).norm()
        error = (tensor - end[name]).norm()
        # Ranks round other sums in half precision, and a polar factor magnifies the difference in
        # directions of small singular values; another direction altogether would be off by 1.4.
        limit = 1e-3 if saved.precision == "fp32" else 0.7
        assert error <= limit * moved, f"{label}: {name} is off by {error / moved}"
    assert actual["steps"] == expected["end"]["steps"]
    engine.destroy()


@distributed(1, 2, 3, cases=CUT_DIFFERENTLY, needs=saved_elsewhere)
def test_slices_of_other_ranks_are_refused(case: Case) -> None:
    """A plain checkpoint of another number of ranks, by a message that names the way."""
    engine = start(case)
    here = dist.get_world_size()
    path = universal_folder(SAVED_ON[here], case)
    ranks = f"{SAVED_ON[here]} ranks, and there are {here} now"
    assert_refused(engine, str(path), f"was saved by {ranks}: convert it")
    engine.destroy()


@distributed(1, 2, 3, needs=lambda ranks, _: Job(saved_once, SAVED_ON[ranks], STAGE_0))
def test_stage_0_loads_on_any_ranks() -> None:
    """Every rank has everything: nothing to convert."""
    engine = start(STAGE_0, seed=7)
    path = folder_of(SAVED_ON[dist.get_world_size()], f"saved {STAGE_0.name}")
    engine.load_checkpoint(str(path))
    saved = torch.load(path / "half" / "mp_rank_00_model_states.pt", weights_only=False)
    assert_equal(dict(saved["module"]), weights(engine))
    assert_equal(saved["optimizer"]["state"], engine.optimizer.state_dict()["state"])
    engine.destroy()


@distributed(2)
def test_universal_settings_are_refused() -> None:
    """Where there are no slices, and where they are out of reach."""
    assert_raises(
        NotImplementedError, "at ZeRO stage 0", lambda: start(Case("SWAN", 0), universal=True)
    )


@distributed(2)
def test_universal_checkpoints_of_others_are_refused() -> None:
    """The checks of a plain checkpoint hold for a converted one."""
    for stage in (1, 2, 3):
        path = own_folder(f"universal for others {stage}")
        save(Case("PolarGrad", stage), path)
        if dist.get_rank() == 0:
            convert(Path(path, "half"), Path(path, "universal"))
        dist.barrier()
        for case, message in (
            (Case("SWAN", stage), "saved by PolarGrad, not by SWAN"),
            (Case("PolarGrad", stage, params={"power": 1.2}), "not by GradPower(PolarGrad)"),
            (Case("PolarGrad", stage, params=EXCLUDED), "'blocks.0.square.weight' was matrix"),
        ):
            engine = start(case, universal=True)
            assert_refused(engine, path, message)
            engine.destroy()


@distributed(2)
def test_deepspeeds_own_conversion_is_refused() -> None:
    """It fails on our state keys; where it does not, its result is not loaded."""
    arguments = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False,
                 "strict": True, "inject_missing_state": True}  # fmt: skip
    for name, stage in (("PolarGrad", 1), ("PolarGrad", 3), ("SWAN", 2), ("SWAN", 3),
                        ("AdamPower", 1), ("AdamPower", 3)):  # fmt: skip
        path = own_folder(f"ds_to_universal {name} {stage}")
        save(Case(name, stage), path)
        if dist.get_rank() == 0:
            work = argparse.Namespace(
                input_folder=f"{path}/half", output_folder=f"{path}/theirs", **arguments
            )
            if name == "AdamPower":
                ds_to_universal.main(work)
            else:
                assert_raises(KeyError, "", lambda: ds_to_universal.main(work))
        dist.barrier()
        if name == "AdamPower":
            engine = start(Case(name, stage), universal=True)
            assert_refused(engine, path, "converted by DeepSpeed's ds_to_universal.py")
            engine.destroy()
