"""The flags of a run, made from its settings: one field, one flag, one description."""

import argparse
import types
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain.settings import RunSettings

_EPILOG = """\
example:
  deepspeed --num_gpus 2 scripts/pretrain.py \\
      --deepspeed_config configs/deepspeed/zero2_swan.json --model configs/models/tiny.json \\
      --data shakespeare --steps 300 --output runs/swan

The DeepSpeed JSON keeps its meaning on any number of ranks: its train_batch_size is kept and the
accumulation follows, unless --micro-batch, --accumulation or --train-batch say otherwise.
"""


def flag(name: str) -> str:
    """The flag of a field; DeepSpeed's own spelling for its config."""
    return "--deepspeed_config" if name == "deepspeed_config" else "--" + name.replace("_", "-")


def add_settings(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    model: type[BaseModel],
    leave: Collection[str] = (),
    preset: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Adds one flag for every field of ``model`` but those in ``leave``.

    ``preset`` holds defaults that differ from the model's own; a preset flag is never required.
    """
    for name, field in model.model_fields.items():
        if name in leave:
            continue
        kind: Any = field.annotation
        if get_origin(kind) in (Union, types.UnionType):
            kind = next(one for one in get_args(kind) if one is not type(None))
        default = preset.get(name, field.default)
        required = field.is_required() and name not in preset
        text = (field.description or "").replace("%", "%%")
        if not required and default not in (None, ()):
            text += f" (default: {default})"
        options: dict[str, Any] = {"dest": name, "help": text, "default": argparse.SUPPRESS}
        options["required"] = required
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(kind) is Literal:
            options["choices"] = get_args(kind)
        elif get_origin(kind) is tuple:
            options |= {"action": "append", "metavar": "KEY=VALUE"}
        else:
            names = {int: "N", float: "X", Path: "PATH"}
            options |= {"type": kind, "metavar": names.get(kind, "NAME")}
        parser.add_argument(flag(name), **options)


def positive(text: str) -> int:
    """An ``argparse`` type: a count of at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print, once for every rank."""

    def error(self, message: str) -> NoReturn:
        raise PretrainError(message)


def parse(arguments: Sequence[str] | None = None) -> RunSettings:
    """Settings from a command line (``sys.argv`` by default).

    Raises:
        PretrainError: a flag that there is not, or a value out of range; the message names it.
    """
    parser = _Parser(
        description="Pre-train a language model under DeepSpeed with any optimizer its JSON names.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(parser, RunSettings)
    # The DeepSpeed launcher appends it; DeepSpeed itself reads the environment instead.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    told = vars(parser.parse_args(arguments))
    told.pop("local_rank")
    return build(RunSettings, told)


_Settings = TypeVar("_Settings", bound=BaseModel)


def build(model: type[_Settings], told: dict[str, Any]) -> _Settings:
    """``model`` from parsed flags, with pydantic's complaint turned into one that names flags."""
    try:
        return model(**told)
    except ValidationError as error:
        lines = [
            f"{flag(str(one['loc'][0])) + ': ' if one['loc'] else ''}"
            f"{one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        ]
        raise PretrainError("\n".join(lines)) from None


def arguments(settings: RunSettings) -> list[str]:
    """The command line that gives ``settings`` again, shortest form."""
    line: list[str] = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if not field.is_required() and value == field.default:
            continue
        if isinstance(value, bool):
            line.append(flag(name) if value else "--no-" + flag(name)[2:])
        elif isinstance(value, tuple):
            for one in value:
                line += [flag(name), str(one)]
        else:
            line += [flag(name), str(value)]
    return line
