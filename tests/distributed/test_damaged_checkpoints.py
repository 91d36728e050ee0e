"""Damaged and incomplete checkpoints on real engines: all ranks refuse them, and name the file."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gradopt_ds.integration.checkpoints.universal import convert
from tests.distributed import checkpoint_engines as worker
from tests.distributed.checkpoint_cases import STAGE_2, STAGE_3, Case
from tests.distributed.harness import distributed

STAGE_0, STAGE_1 = Case("PolarGrad", 0), Case("PolarGrad", 1, "bf16")
ALL = (STAGE_0, STAGE_1, STAGE_2, STAGE_3)
CUT = (STAGE_1, STAGE_2, STAGE_3)


def flip(file: Path) -> None:
    """Change one byte in the middle of the largest tensor of a file."""
    tensor = max(tensors(torch.load(file, weights_only=False)), key=torch.Tensor.numel)
    content = bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist())
    raw = bytearray(file.read_bytes())
    raw[raw.index(content) + len(content) // 2] ^= 0x04
    file.write_bytes(raw)
    torch.load(file, weights_only=False)  # torch does not mind


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in dicts and lists."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def truncate(file: Path) -> None:
    """Keep the first half."""
    os.truncate(file, file.stat().st_size // 2)


@cache
def changed(source: Path, name: str, change: Any) -> Path:
    """A copy of the folder of a checkpoint, with one file of it changed by rank 0."""
    target = source.parent / f"{source.name} {change.__name__} {name}".replace("/", " ")
    if dist.get_rank() == 0:
        # Left by processes that were replaced after a failed test.
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        change(next(target.glob(name)))
    dist.barrier()
    return target


def names_read(case: Case) -> list[str]:
    """The files that two ranks load at a stage, by DeepSpeed's names."""
    half = "bf16_" if case.precision == "bf16" else ""
    states = [f"half/{half}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]
    if case.stage == 0:
        return ["half/mp_rank_00_model_states.pt"]
    if case.stage < 3:
        return ["half/mp_rank_00_model_states.pt", *states]
    return [*(f"half/zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in (0, 1)), *states]


def assert_each_refused(case: Case, source: Path, names: list[str], universal: bool) -> None:
    """Every change of every file, by a message that names the file, on both ranks."""
    engine = worker.start(case, seed=7, universal=universal)
    for name in names:
        file = next(source.glob(name)).relative_to(source)
        flippable = case.stage < 3 or "model_states" not in name
        for change in (*([flip] if flippable else []), truncate, Path.unlink):
            damaged = changed(source, name, change)
            worker.assert_refused(engine, str(damaged), str(damaged / file))
    engine.destroy()


@distributed(2)
def test_damaged_files_are_refused() -> None:
    """At every stage: a flipped byte, half a file, no file, whichever rank loads it."""
    for case in ALL:
        assert_each_refused(case, Path(worker.saved_once(case)), names_read(case), False)


@distributed(2)
def test_damaged_weights_are_refused_without_state() -> None:
    """When the weights alone are loaded, of all files that are read then."""
    for case in ALL:
        source = Path(worker.saved_once(case))
        names = [n for n in names_read(case) if case.stage == 3 or "model_states" in n]
        for name in names:
            damaged = changed(source, name, truncate)
            engine = worker.start(replace(case, optimizer="SWAN"))
            worker.assert_raises(
                ValueError,
                str(damaged / name),
                lambda d=damaged, e=engine: e.load_checkpoint(
                    str(d), load_module_only=True, load_optimizer_states=False
                ),
            )
            engine.destroy()


@cache
def universal(case: Case) -> Path:
    """A folder with the universal checkpoint of a case."""
    source = Path(worker.saved_once(case))
    target = source.with_name(f"{source.name} converted")
    if dist.get_rank() == 0:
        target.mkdir()
        shutil.copytree(source / "half", target / "half")
        convert(target / "half", target / "universal")
    dist.barrier()
    return target


@distributed(2)
def test_damaged_universal_checkpoints_are_refused() -> None:
    """Weights, momentum, AdamW's averages, what parameters share, the engine's counters."""
    for case in CUT:
        model = "zero_pp_rank_0_" * (case.stage == 3) + "mp_rank_00_model_states.pt"
        names = [
            "universal/zero/blocks.0.square.weight/fp32.pt",
            "universal/zero/blocks.1.odd.weight/momentum_buffer.pt",
            "universal/zero/lm_head.weight/exp_avg_sq.pt",
        ]
        assert_each_refused(case, universal(case), names, True)
        engine = worker.start(case, seed=7, universal=True)
        for name in ("universal/zero/optimizer_state.pt", f"universal/{model}"):
            damaged = changed(universal(case), name, truncate)
            worker.assert_refused(engine, str(damaged), str(damaged / name))
        engine.destroy()


@distributed(2)
def test_a_universal_checkpoint_without_any_momentum_is_refused() -> None:
    """Consistently incomplete: all of one kind of file are gone."""
    for case in CUT:
        damaged = changed(universal(case), "universal/zero", _without_momentum)
        engine = worker.start(case, seed=7, universal=True)
        worker.assert_refused(engine, str(damaged), "momentum_buffer.pt: the checkpoint is not")
        engine.destroy()


def _without_momentum(folder: Path) -> None:
    for file in folder.glob("*/momentum_buffer.pt"):
        file.unlink()


@distributed(2)
def test_an_earlier_universal_checkpoint_ends_alike_on_all_ranks() -> None:
    """Without the list of what was written: whole it loads; a weight that is missing is named."""
    for case in CUT:
        earlier = changed(universal(case), "universal/zero/optimizer_state.pt", _without_list)
        engine = worker.start(case, seed=7, universal=True)
        damaged = changed(earlier, "universal/zero/blocks.0.square.weight/fp32.pt", Path.unlink)
        worker.assert_raises(
            ValueError,
            "holds no weights of 'blocks.0.square.weight'",
            lambda d=damaged, e=engine: e.load_checkpoint(str(d)),
        )
        engine.destroy()
        plain, old = worker.start(case), worker.start(case, seed=7, universal=True)
        plain.load_checkpoint(worker.saved_once(case))
        old.load_checkpoint(str(earlier))
        worker.assert_equal(worker.whole_state(plain), worker.whole_state(old), case.name)
        plain.destroy()
        old.destroy()


def _without_list(file: Path) -> None:
    common = torch.load(file, weights_only=False)
    del common["contents"]
    torch.save(common, file)


@distributed(2)
def test_frozen_tensors_of_another_shape_are_refused() -> None:
    """Rank 0 alone would copy them, at stage 3 while the others wait."""
    for case in (replace(STAGE_2, frozen=True), replace(STAGE_3, frozen=True)):
        name = "universal/zero/blocks.0.square.weight/fp32.pt"
        other = changed(universal(case), name, _of_another_shape)
        engine = worker.start(case, universal=True)
        worker.assert_raises(
            ValueError,
            "has shape (3, 2) and 'blocks.0.square.weight' (12, 12)",
            lambda o=other, e=engine: e.load_checkpoint(str(o)),
        )
        engine.destroy()


def _of_another_shape(file: Path) -> None:
    torch.save({"param": torch.zeros(3, 2)}, file)


@distributed(2)
def test_damaged_checkpoints_are_not_converted() -> None:
    """The result would have checksums of its own, of what is wrong."""
    for case in CUT:
        for name in names_read(case):
            change = truncate if "model_states" in name else flip
            damaged = changed(Path(worker.saved_once(case)), name, change)
            target = damaged / "universal"
            if dist.get_rank() == 0:
                worker.assert_raises(
                    ValueError,
                    str(damaged / name),
                    partial(convert, damaged / "half", target),
                )
                assert not target.exists()


@distributed(2)
def test_the_key_of_universal_checkpoints_is_named() -> None:
    """Loaded without it, at every stage, with and without state."""
    for case in ALL:
        engine = worker.start(case)
        path = str(universal(STAGE_2))
        message = '"checkpoint": {"load_universal": true} in the DeepSpeed JSON'
        for options in ({}, {"load_module_only": True, "load_optimizer_states": False}):
            worker.assert_raises(
                ValueError,
                message,
                lambda o=options, e=engine: e.load_checkpoint(path, tag="universal", **o),
            )
        engine.destroy()
