"""DeepSpeed's universal layout on disk: ``zero/<parameter>/<key>.pt`` and two common files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from deepspeed.checkpoint.constants import CLIP_GRAD, FP32_WEIGHT_KEY, LOSS_SCALER, PARAM

from gradopt_ds.checkpoint import KEY, Record, State, from_state
from gradopt_ds.integration.checkpoints.intact import require_intact

LOSS_SCALE = (LOSS_SCALER, "dynamic_loss_scale", "overflow")
SHARED = (*LOSS_SCALE, CLIP_GRAD)
"""What ZeRO's wrappers keep once, beside the base optimizer's state."""

CONTENTS = "contents"
"""Among what the parameters share: name → the keys that were written for it."""

CONVERT = "gradopt-ds convert IN OUT"


def write_parameter(folder: Path, name: str, state: State) -> None:
    """Write one parameter's weight and state."""
    (folder / "zero" / name).mkdir(parents=True)
    for key, tensor in state.elements.items():
        torch.save({PARAM: tensor}, _file(folder, name, key))
    for key, value in state.shared.items():
        torch.save(value, _file(folder, name, key))


def read_parameter(folder: Path, name: str) -> State:
    """Read one parameter's weight and state, mapped from the file rather than loaded.

    Raises:
        ValueError: the parameter is not there.
    """
    files = sorted((folder / "zero" / name).glob("*.pt"))
    if _file(folder, name, FP32_WEIGHT_KEY) not in files:
        raise ValueError(f"{folder} holds no weights of {name!r}")
    state = State()
    for file in files:
        value = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        if isinstance(value, dict):
            state.elements[file.stem] = value[PARAM]
        else:
            state.shared[file.stem] = value
    return state


def listed_files(folder: Path, common: Mapping[str, Any]) -> list[Path]:
    """Return all files of parameters: those that were written, or those that are there.

    Args:
        folder: of one universal checkpoint.
        common: what its parameters share. That of an earlier version lists no files.
    """
    contents: Mapping[str, list[str]] | None = common.get(CONTENTS)
    if contents is None:
        return sorted((folder / "zero").glob("*/*.pt"))
    return [_file(folder, name, key) for name, keys in contents.items() for key in keys]


def write_common(folder: Path, common: dict[str, Any]) -> None:
    """Write what the parameters share."""
    torch.save(common, folder / "zero" / "optimizer_state.pt")


def read_common(folder: Path) -> tuple[Record, dict[str, Any]]:
    """Read what the parameters share, and the record of whose they are.

    Raises:
        ValueError: it is missing or damaged, or was not written by this library.
    """
    file = folder / "zero" / "optimizer_state.pt"
    if not file.is_file():
        raise ValueError(f"{folder} is no universal checkpoint: make one with {CONVERT}")
    require_intact(file)
    common: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
    if KEY not in common:
        raise ValueError(
            f"{folder} was converted by DeepSpeed's ds_to_universal.py, which knows one parameter "
            f"group and Adam's state only: convert the checkpoint with {CONVERT}"
        )
    return from_state(common), common


def _file(folder: Path, name: str, key: str) -> Path:
    return folder / "zero" / name / f"{key}.pt"
