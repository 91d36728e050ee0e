"""Saving and loading with real engines; each function is a test of ``test_checkpoints.py``."""

import argparse
import gc
import io
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.checkpoint import ds_to_universal
from deepspeed.runtime.fp16.loss_scaler import LossScalerBase
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor, nn

import gradopt_ds  # noqa: F401  (registers the optimizers)
from gradopt_ds.checkpoint import FORMAT, KEY
from gradopt_ds.experiments.common.process_end import end_process
from gradopt_ds.integration.checkpoints.universal import convert
from gradopt_ds.integration.checkpoints.universal import main as main_of_conversion
from tests.distributed.checkpoint_cases import (
    CASES,
    EXCLUDED,
    PARAMS,
    SKIPPED,
    STAGE_2,
    STAGE_3,
    SUB_GROUPS,
    UNIVERSAL,
    Case,
    engine_config,
)
from tests.distributed.model import LENGTH, VOCABULARY, TinyLM, build_model
from tests.distributed.moe_model import TinyMoe, build_moe

GLOBAL_BATCH = 24
"""Divides by every number of ranks, so that all of them see the same batch."""

HALF, END = 2, 4
"""Steps at which a checkpoint is saved, and a run ends."""

FOLDER = Path()
"""Shared by all launches of a test run; set by ``main``."""


def start(case: Case, *, seed: int = 0, universal: bool = False, **changes: Any) -> Any:
    """An engine for a case; another seed gives other weights, which loading must replace."""
    config = engine_config(case, GLOBAL_BATCH // dist.get_world_size())
    if universal:
        config["checkpoint"] = {"load_universal": True}
    config = {**config, **changes}
    dense = case.model == "dense"
    model = build_model(seed) if dense else build_moe(seed, balanced=False)
    if case.zero_init:
        with deepspeed.zero.Init(config_dict_or_path=config):
            cut = TinyLM() if dense else TinyMoe(balanced=False)
        for from_, to in zip(model.parameters(), cut.parameters(), strict=True):
            with deepspeed.zero.GatheredParameters([to], modifier_rank=0), torch.no_grad():
                to.copy_(from_)
        model = cut
    if case.frozen:
        model.register_buffer("seen", torch.tensor([seed + 1.0, 2.0]))
        model.blocks[0].square.weight.requires_grad_(False)
    return deepspeed.initialize(model=model, config=config)[0]


def train(engine: Any, steps: range, overflow_at: int | None = None) -> None:
    """Steps on a global batch that does not depend on the number of ranks."""
    each = GLOBAL_BATCH // dist.get_world_size()
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        batch = torch.randint(VOCABULARY, (GLOBAL_BATCH, LENGTH), generator=generator)
        loss = engine(batch[dist.get_rank() * each :][:each])
        engine.backward(loss * (float("inf") if step == overflow_at else 1.0))
        engine.step()


def weights(engine: Any) -> dict[str, Tensor]:
    """The model's weights and buffers, whole."""
    found = {name: buffer.clone() for name, buffer in engine.module.named_buffers()}
    for name, param in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([param], enabled=hasattr(param, "ds_id")):
            found[name] = param.detach().clone()
    return found


def whole_state(engine: Any) -> dict[str, Tensor]:
    """Masters and elementwise state of every parameter, whole: the slices of all ranks joined."""
    names = {param: name for name, param in engine.module.named_parameters()}
    found = {}
    for slice_, members in _slices(engine.optimizer):
        tensors = {"fp32": slice_.detach(), **engine.basic_optimizer.state.get(slice_, {})}
        for key, tensor in tensors.items():
            if tensor.shape != slice_.shape:
                continue
            parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, tensor.contiguous())
            for param, whole_from in members:
                found[f"{names[param]}.{key}"] = whole_from(parts)
    return found


Joined = Callable[[list[Tensor]], Tensor]


def _slices(wrapper: Any) -> Iterator[tuple[Tensor, list[tuple[Tensor, Joined]]]]:
    """Each slice, and how its parameters come out of the slices of all ranks."""
    if hasattr(wrapper, "fp32_partitioned_groups_flat"):
        for slice_, params in zip(
            wrapper.fp32_partitioned_groups_flat, wrapper.fp16_groups, strict=True
        ):
            chunks = [param.ds_tensor.ds_numel for param in params]
            offsets = accumulate(chunks, initial=0)
            yield (
                slice_,
                [
                    (param, partial(_from_chunks, param.ds_shape, offset, chunk))
                    for param, offset, chunk in zip(params, offsets, chunks, strict=False)
                ],
            )
        return
    kind = "bit16" if hasattr(wrapper, "bit16_groups") else "bf16"
    slices = getattr(wrapper, "single_partition_of_fp32_groups", None)
    slices = slices or wrapper.fp32_groups_flat_partition
    flats = getattr(wrapper, f"{kind}_groups_flat")
    for slice_, flat, params in zip(slices, flats, getattr(wrapper, f"{kind}_groups"), strict=True):
        yield (
            slice_,
            [
                (
                    param,
                    partial(
                        _from_flat, param.shape, param.storage_offset() - flat.storage_offset()
                    ),
                )
                for param in params
            ],
        )


def _from_chunks(shape: torch.Size, offset: int, chunk: int, parts: list[Tensor]) -> Tensor:
    return torch.cat([part[offset:][:chunk] for part in parts])[: shape.numel()].view(shape)


def _from_flat(shape: torch.Size, offset: int, parts: list[Tensor]) -> Tensor:
    return torch.cat(parts)[offset:][: shape.numel()].view(shape)


def settings(engine: Any) -> list[dict[str, Any]]:
    """Every group's settings."""
    return [
        {k: v for k, v in group.items() if k != "params"}
        for group in engine.basic_optimizer.param_groups
    ]


def steps_taken(engine: Any) -> list[float]:
    """AdamW's counts, by slice."""
    return [float(s["step"]) for s in engine.basic_optimizer.state.values() if "step" in s]


def assert_equal(a: Any, b: Any, path: str = "") -> None:
    """Bitwise equality, all the way down."""
    if isinstance(a, Tensor):
        # DeepSpeed leaves the padding of stage 3 uninitialised: it may well be NaN.
        torch.testing.assert_close(
            b, a, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{path}: {text}"
        )
    elif isinstance(a, LossScalerBase):
        assert_equal(vars(a), vars(b), path)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), f"{path}: {a.keys()} and {b.keys()}"
        for key in a:
            assert_equal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_equal(one, other, f"{path}[{index}]")
    else:
        assert a == b, f"{path}: {a!r} and {b!r}"


def folder(name: str) -> str:
    """A folder of this launch's own."""
    return str(FOLDER / f"{dist.get_world_size()}ranks" / name)


def resume_is_bit_equal(case: Case, overflow_at: int | None = None) -> None:
    """Save, build anew from other weights, load, go on: the same bits as a run never broken."""
    unbroken = start(case)
    train(unbroken, range(HALF), overflow_at)
    path = folder(f"resume {case.name} {overflow_at}")
    unbroken.save_checkpoint(path, tag="half")
    train(unbroken, range(HALF, END))
    resumed = start(case, seed=7)
    resumed.load_checkpoint(path)
    train(resumed, range(HALF, END))
    assert_equal(weights(unbroken), weights(resumed), case.name)
    assert all(weight.isfinite().all() for weight in weights(resumed).values()), case.name
    assert_equal(unbroken.optimizer.state_dict(), resumed.optimizer.state_dict(), case.name)
    assert unbroken.skipped_steps == resumed.skipped_steps == (overflow_at is not None)
    unbroken.destroy()
    resumed.destroy()


def every_resume_is_bit_equal() -> None:
    """At every stage, in every precision, with the options that move slices."""
    for case in CASES:
        resume_is_bit_equal(case)


def a_resume_after_a_skipped_step_is_bit_equal() -> None:
    """The loss scale and its history are part of the checkpoint."""
    for case in SKIPPED:
        resume_is_bit_equal(case, overflow_at=HALF - 1)


def zero_to_fp32_yields_the_masters() -> None:
    """DeepSpeed's script understands the checkpoints of stages 1 to 3."""
    for case in (
        *(Case("PolarGrad", stage, "bf16") for stage in (1, 2, 3)),
        *(Case(optimizer, 2) for optimizer in PARAMS),
        Case("PolarGrad", 2, zero={"round_robin_gradients": True}),
        Case("MuonPower", 3, "bf16", SUB_GROUPS, zero_init=True),
        Case("SWAN", 3, zero=SUB_GROUPS, frozen=True),
    ):
        engine = start(case)
        train(engine, range(1))
        path = folder(f"zero_to_fp32 {case.name}")
        engine.save_checkpoint(path, tag="one")
        found = get_fp32_state_dict_from_zero_checkpoint(path)
        masters = {
            name[: -len(".fp32")]: w
            for name, w in whole_state(engine).items()
            if name.endswith(".fp32")
        }
        expected = {**weights(engine), **masters}
        assert found.keys() == expected.keys()
        assert_equal({name: found[name] for name in expected}, expected, case.name)
        engine.destroy()


def bf16_optimizer_is_no_zero_checkpoint_to_zero_to_fp32() -> None:
    """The weights of this wrapper come out through the universal layout alone."""
    engine = start(Case("PolarGrad", 1, "bf16 over fp32"))
    path = folder("zero_to_fp32 refuses")
    engine.save_checkpoint(path, tag="one")
    assert_raises(
        Exception,
        "is not a zero checkpoint",
        lambda: get_fp32_state_dict_from_zero_checkpoint(path),
    )


def assert_raises(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    """The error comes, with this message, on this rank."""
    try:
        call()
    except error as raised:
        assert message in str(raised), raised
    else:
        raise AssertionError(f"{error.__name__} with {message!r} was not raised")


def assert_refused(engine: Any, path: str, message: str) -> None:
    """Loading fails with this message, and nothing has been overwritten."""
    before = io.BytesIO()
    torch.save([weights(engine), engine.optimizer.state_dict()], before)
    before.seek(0)
    assert_raises(ValueError, message, lambda: engine.load_checkpoint(path))
    expected = torch.load(before, weights_only=False)
    assert_equal(expected, [weights(engine), engine.optimizer.state_dict()])
    train(engine, range(1))


def another_optimizer_is_refused() -> None:
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


def adamw_of_deepspeed_is_refused() -> None:
    """AdamPower does not go on with state that has seen gradients as they are."""
    adamw = {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}}
    for stage in (0, 1, 2, 3):
        path = folder(f"AdamW {stage}")
        save(Case("AdamPower", stage), path, optimizer=adamw)
        engine = start(Case("AdamPower", stage))
        assert_refused(engine, path, "does not say which parameters it holds")
        engine.destroy()


def other_parameters_are_refused() -> None:
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


def another_format_is_refused() -> None:
    """What a later version writes is not guessed at."""
    for stage in (0, 2, 3):
        case = Case("PolarGrad", stage)
        original, path = saved_once(case), folder(f"format {stage}")
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


def other_slices_are_refused() -> None:
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


@cache
def saved_once(case: Case) -> str:
    """The folder of a case's checkpoint, for tests that only read it."""
    path = folder(f"saved {case.name}")
    save(case, path)
    return path


def save(case: Case, path: str, **changes: Any) -> None:
    """A checkpoint after ``HALF`` steps."""
    engine = start(case, **changes)
    train(engine, range(HALF))
    engine.save_checkpoint(path, tag="half")
    engine.destroy()


def deepspeeds_own_conversion_is_refused() -> None:
    """It fails on our state keys; where it does not, its result is not loaded."""
    arguments = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False,
                 "strict": True, "inject_missing_state": True}  # fmt: skip
    for name, stage in (("PolarGrad", 1), ("PolarGrad", 3), ("SWAN", 2), ("SWAN", 3),
                        ("AdamPower", 1), ("AdamPower", 3)):  # fmt: skip
        path = folder(f"ds_to_universal {name} {stage}")
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


def universal_checkpoints_of_others_are_refused() -> None:
    """The checks of a plain checkpoint hold for a converted one."""
    for stage in (1, 2, 3):
        path = folder(f"universal for others {stage}")
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


def weights_alone_load_into_any_optimizer() -> None:
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


def universal_settings_are_refused() -> None:
    """Where there are no slices, and where they are out of reach."""
    assert_raises(
        NotImplementedError, "at ZeRO stage 0", lambda: start(Case("SWAN", 0), universal=True)
    )


def universal_is_saved() -> None:
    """For the launches on other numbers of ranks; what they must find goes beside it."""
    for saved in dict.fromkeys(saved.name for saved, _ in UNIVERSAL):
        case = next(case for case, _ in UNIVERSAL if case.name == saved)
        engine = start(case)
        for group in engine.basic_optimizer.param_groups:
            group["lr"] *= 0.5  # as a schedule does
        train(engine, range(HALF))
        path = Path(folder("universal"), case.name)
        expected = {"half": facts(engine, case)}
        engine.save_checkpoint(str(path), tag="half", client_state={"note": 7})
        train(engine, range(HALF, END))
        expected["end"] = facts(engine, case)
        if dist.get_rank() == 0:
            main_of_conversion([f"{path / 'half'}", f"{path / 'universal'}"])
            torch.save(expected, path / "expected.pt")
        dist.barrier()
        engine.destroy()


def facts(engine: Any, case: Case) -> dict[str, Any]:
    """All that must survive a change of the number of ranks."""
    return {
        "state": whole_state(engine),
        "weights": weights(engine),
        "settings": settings(engine),
        "steps": sorted(set(steps_taken(engine))),
        "scaler": dict(vars(engine.optimizer.loss_scaler)) if case.precision == "fp16" else {},
        "counters": [engine.global_steps, engine.skipped_steps],
    }


def universal_goes_on_elsewhere() -> None:
    """On other numbers of ranks: the same state to the last bit, and then the same steps."""
    for saved, loaded in UNIVERSAL:
        path = _elsewhere() / "universal" / saved.name
        expected = torch.load(path / "expected.pt", weights_only=False)
        engine = start(loaded, seed=7, universal=True)
        _, client_state = engine.load_checkpoint(str(path))
        assert client_state["note"] == 7
        label = f"{saved.name} as {loaded.name}"
        facts_here = facts(engine, loaded)
        if saved.precision != loaded.precision:
            assert engine.optimizer.loss_scale == 1
            for key in ("weights", "scaler"):
                facts_here[key] = expected["half"][key]
        assert_equal(expected["half"], facts_here, label)
        train(engine, range(HALF, END))
        found = facts(engine, loaded)
        half, end = ({**expected[at]["weights"], **expected[at]["state"]} for at in ("half", "end"))
        for name, tensor in {**found["weights"], **found["state"]}.items():
            if saved.precision != "fp32" and not name.endswith(".fp32"):
                continue  # Weights in half precision are rounded masters.
            moved = (end[name] - half[name]).norm()
            error = (tensor - end[name]).norm()
            limit = 1e-3 if saved.precision == "fp32" else 0.2
            assert error <= limit * moved, f"{label}: {name} is off by {error / moved}"
        assert found["steps"] == expected["end"]["steps"]
        engine.destroy()


def _elsewhere() -> Path:
    """What the launch on another number of ranks has saved."""
    source = {1: 2, 2: 3, 3: 2}[dist.get_world_size()]
    return FOLDER / f"{source}ranks"


def slices_of_other_ranks_are_refused() -> None:
    """A plain checkpoint of another number of ranks, by a message that names the way."""
    for case in (Case("PolarGrad", 1), STAGE_2, STAGE_3, Case("PolarGrad", 1, "bf16 over fp32")):
        engine = start(case)
        path = _elsewhere() / "universal" / case.name
        ranks = f"{_elsewhere().name[0]} ranks, and there are {dist.get_world_size()} now"
        assert_refused(engine, str(path), f"was saved by {ranks}: convert it")
        engine.destroy()


def stage_0_loads_on_any_ranks() -> None:
    """Every rank has everything: nothing to convert."""
    engine = start(Case("PolarGrad", 0), seed=7)
    path = _elsewhere() / "resume PolarGrad, stage 0, fp32 None"
    engine.load_checkpoint(str(path))
    saved = torch.load(path / "half" / "mp_rank_00_model_states.pt", weights_only=False)
    assert_equal(dict(saved["module"]), weights(engine))
    assert_equal(saved["optimizer"]["state"], engine.optimizer.state_dict()["state"])
    engine.destroy()


HERE = (
    every_resume_is_bit_equal,
    a_resume_after_a_skipped_step_is_bit_equal,
    zero_to_fp32_yields_the_masters,
    universal_is_saved,
)
"""What a launch does by itself."""

REFUSALS = (
    bf16_optimizer_is_no_zero_checkpoint_to_zero_to_fp32,
    another_optimizer_is_refused,
    adamw_of_deepspeed_is_refused,
    other_parameters_are_refused,
    another_format_is_refused,
    other_slices_are_refused,
    deepspeeds_own_conversion_is_refused,
    universal_checkpoints_of_others_are_refused,
    weights_alone_load_into_any_optimizer,
    universal_settings_are_refused,
)
"""Alike on any number of ranks above one."""

ELSEWHERE = (
    universal_goes_on_elsewhere,
    slices_of_other_ranks_are_refused,
    stage_0_loads_on_any_ranks,
)
"""What needs the files of a launch on another number of ranks."""

GROUPS = {"here": HERE, "refusals": REFUSALS, "elsewhere": ELSEWHERE}


def main() -> None:
    """Run the tests of one launch; a failure on any rank is reported with its traceback."""
    global FOLDER
    torch.set_num_threads(1)
    get_accelerator().is_fp16_supported = lambda: True  # emulated, see exactness_worker
    # A rank that fails alone is waited for by the others, but not for long.
    limit = timedelta(seconds=120)
    deepspeed.init_distributed(dist_backend="gloo", verbose=False, timeout=limit)
    FOLDER = Path(sys.argv[2])
    start(STAGE_2).destroy()
    gc.freeze()  # DeepSpeed collects garbage often, and all that is imported by now is none.
    results: dict[str, list[str]] = {}
    for test in (test for group in sys.argv[3:] for test in GROUPS[group]):
        try:
            test()
            failure = ""
        except Exception:
            failure = traceback.format_exc()
            print(failure, file=sys.stderr, flush=True)  # the others may wait for this rank
        failures: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(failures, failure)
        results[test.__name__] = [text for text in failures if text]
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
    dist.barrier()


if __name__ == "__main__":
    main()
    end_process()
