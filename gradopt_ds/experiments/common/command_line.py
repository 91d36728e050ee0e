"""Flags made from settings: one field, one flag, one description.

Why not the command line of pydantic-settings? It would be one more dependency; by default it also
fills fields from environment variables, so that a variable named MODEL or STEPS on some cluster
would change a run in silence; its errors name fields instead of flags; and the one underscore in
DeepSpeed's ``--deepspeed_config`` among flags with dashes, the shared settings with other defaults
in ``scripts/compare.py`` and the way back from settings to flags would each need code of ours. All
that this library needs of a command line is the hundred lines below.
"""

import argparse
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gradopt_ds.experiments.common.errors import PretrainError

METAVARS = {int: "N", float: "X", Path: "PATH"}
"""What the help text shows for a value of a type; ``NAME`` for others."""


def make_parser(
    description: str | None, epilog: str, program: str | None = None
) -> argparse.ArgumentParser:
    """Make a parser whose help keeps the line breaks of its epilog.

    Args:
        description: what comes before the flags.
        epilog: what comes after them.
        program: what the help calls the command; the script's own name by default.
    """
    return argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def flag(name: str) -> str:
    """Name the flag of a field; DeepSpeed's own spelling for its config."""
    return "--deepspeed_config" if name == "deepspeed_config" else "--" + name.replace("_", "-")


def add_settings(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    model: type[BaseModel],
    leave: Collection[str] = (),
    preset: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Add one flag for every field of ``model`` but those in ``leave``.

    ``preset`` holds defaults that differ from the model's own; a preset flag is never required.
    """
    for name, field in model.model_fields.items():
        if name in leave:
            continue
        default = preset.get(name, field.default)
        required = field.is_required() and name not in preset
        text = (field.description or "").replace("%", "%%")
        if not required and default not in (None, ()):
            text += f" (default: {default})"
        parser.add_argument(
            flag(name),
            dest=name,
            help=text,
            default=argparse.SUPPRESS,
            required=required,
            **_options(field.annotation),
        )


def _options(kind: Any) -> dict[str, Any]:
    """Return what argparse is to do with a value of this type."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is tuple:
        return {"action": "append", "metavar": "KEY=VALUE"}
    reader = named_path if kind is Path else kind
    return {"type": reader, "metavar": METAVARS.get(kind, "NAME")}


def named_path(text: str) -> Path:
    """Read a path: a ``type`` of argparse. An empty one, of a variable not set, is no folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: name one")
    return Path(text)


def positive(text: str) -> int:
    """Read a count of at least one: a ``type`` of argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


Settings = TypeVar("Settings", bound=BaseModel)


def build(model: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Validate parsed flags.

    Raises:
        PretrainError: a value is out of range or unknown; the message names its flag.
    """
    try:
        return model(**values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = f"{flag(str(problem['loc'][0]))}: " if problem["loc"] else ""
            lines.append(where + problem["msg"].removeprefix("Value error, "))
        raise PretrainError("\n".join(lines)) from None


def arguments(settings: BaseModel) -> list[str]:
    """Write the command line that gives ``settings`` again, in its shortest form."""
    line: list[str] = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if not field.is_required() and value == field.default:
            continue
        if isinstance(value, bool):
            line.append(flag(name) if value else "--no-" + flag(name)[2:])
        elif isinstance(value, tuple):
            for item in value:
                line += [flag(name), str(item)]
        else:
            line += [flag(name), str(value)]
    return line
