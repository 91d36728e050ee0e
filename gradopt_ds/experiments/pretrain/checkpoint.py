"""Checkpoints a run survives a ``kill -9`` with: complete ones only, data position included."""

import random
import shutil
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import numpy as np
import torch
from deepspeed import DeepSpeedEngine
from deepspeed.accelerator import get_accelerator

from gradopt_ds.experiments.common.errors import PretrainError

LATEST = "latest"  # DeepSpeed's name: any DeepSpeed script can load what is saved here
_TAG = "step"
_ADVICE = "start afresh with --resume never, or with another --output"


def save(engine: DeepSpeedEngine, directory: Path, step: int, state: dict[str, Any]) -> None:
    """Save the engine, this rank's ``state`` and its random number generators. Collective.

    DeepSpeed truncates ``latest`` before it writes the new tag, so a kill in between would lose
    every checkpoint; here ``latest`` is renamed into place when all ranks have written all files.

    Args:
        engine: of ``deepspeed.initialize``.
        directory: of all checkpoints of the run.
        step: optimizer steps done.
        state: anything of this rank that ``torch.save`` takes.
    """
    tag = f"{_TAG}{step}"
    folder = directory / tag
    if dist.get_rank() == 0:
        # A run killed while saving this very step may have left files of another world size.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    dist.barrier()
    own = {"state": state, "random": _random_state(), "ranks": dist.get_world_size()}
    torch.save(own, _own_file(folder))
    engine.save_checkpoint(str(directory), tag=tag, save_latest=False)  # ends with a barrier
    if dist.get_rank() == 0:
        unfinished = directory / f"{LATEST}.unfinished"
        unfinished.write_text(tag)
        unfinished.replace(directory / LATEST)


def prune(directory: Path, step: int, keep: int) -> None:
    """Delete all but the last ``keep`` checkpoints up to ``step``. Rank 0 only.

    Later ones are what a killed run left behind, unfinished or overtaken, and go too.
    """
    saved = {int(folder.name[len(_TAG) :]): folder for folder in directory.glob(f"{_TAG}*")}
    kept = sorted(done for done in saved if done <= step)[-keep:]
    for done, folder in saved.items():
        if done not in kept:
            shutil.rmtree(folder)


def latest_step(directory: Path) -> int | None:
    """Return the steps done at the last complete checkpoint, or None if there is none.

    Raises:
        PretrainError: ``latest`` names no checkpoint of such a run.
    """
    latest = directory / LATEST
    if not latest.is_file():
        return None
    tag = latest.read_text(errors="replace").strip()
    if not (tag.startswith(_TAG) and tag[len(_TAG) :].isdecimal()):
        raise PretrainError(f"{latest} names {tag!r}, not one of {_TAG}1, {_TAG}2, …: {_ADVICE}")
    return int(tag[len(_TAG) :])


def read(directory: Path, step: int) -> dict[str, Any]:
    """Return what this rank saved of itself: its ``state``, ``random`` and the number of ``ranks``.

    Raises:
        PretrainError: the file is gone or broken, or was written by another number of ranks.
    """
    tag = f"{_TAG}{step}"
    own_file = _own_file(directory / tag)
    try:
        # Our own file: it holds numpy and generator states, which weights_only refuses.
        own: dict[str, Any] = torch.load(own_file, weights_only=False)
    except FileNotFoundError:
        # Rank 0's file tells how many wrote one.
        first = _own_file(directory / tag, rank=0)
        if not first.is_file():
            raise PretrainError(
                f"{directory / LATEST} names {tag}, whose files lack: {_ADVICE}"
            ) from None
        own = torch.load(first, weights_only=False)
    except Exception as error:  # whatever unpickling a broken file ends in
        raise PretrainError(
            f"{own_file} is broken ({type(error).__name__}: {error}): {_ADVICE}"
        ) from error
    if own["ranks"] != dist.get_world_size():
        raise PretrainError(
            f"{directory / tag} was saved by {own['ranks']} ranks and this run has "
            f"{dist.get_world_size()}: use as many, or {_ADVICE}"
        )
    return own


def load(engine: DeepSpeedEngine, directory: Path, step: int, random: dict[str, Any]) -> None:
    """Restore engine and random number generators. Collective.

    Raises:
        PretrainError: DeepSpeed or this library refuses the files.
    """
    tag = f"{_TAG}{step}"
    folder = directory / tag
    try:
        loaded = engine.load_checkpoint(str(directory), tag=tag)[0]
    except (ValueError, RuntimeError, OSError) as error:
        raise PretrainError(f"cannot load {folder}: {error}") from error
    if loaded is None:
        raise PretrainError(f"DeepSpeed found no checkpoint in {folder}: {_ADVICE}")
    _restore_random_state(random)


def _own_file(folder: Path, rank: int | None = None) -> Path:
    return folder / f"pretrain_rank{dist.get_rank() if rank is None else rank}.pt"


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "device": get_accelerator().get_rng_state(),
    }


def _restore_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    get_accelerator().set_rng_state(state["device"])
