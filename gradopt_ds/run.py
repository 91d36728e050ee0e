"""``gradopt-ds run COMMAND…``: a command in whose processes DeepSpeed knows the library's names."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STARTUP = Path(__file__).parent / "startup"


def environment(current: Mapping[str, str]) -> dict[str, str]:
    """Make an environment in which every Python that starts imports ``gradopt_ds`` with DeepSpeed.

    Args:
        current: the environment to begin with; its ``PYTHONPATH`` comes after the library's.
    """
    others = current.get("PYTHONPATH")
    path = os.pathsep.join([str(STARTUP), others]) if others else str(STARTUP)
    return {**current, "PYTHONPATH": path}


def main(arguments: Sequence[str]) -> int:
    """Replace this process by the command.

    Returns:
        127 if there is no such command, 126 if it cannot be started; else nothing returns.
    """
    parser = argparse.ArgumentParser(
        prog="gradopt-ds run",
        description="Start a command as it is. In every Python process that it starts, DeepSpeed "
        "knows this library's optimizer names, without an import line in the script.",
        epilog="example: gradopt-ds run deepspeed train.py --deepspeed_config ds_config.json",
    )
    parser.add_argument("command", help="the program")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="…", help="its own arguments")
    chosen = parser.parse_args(arguments)
    sys.stdout.flush()
    try:
        os.execvpe(chosen.command, [chosen.command, *chosen.words], environment(os.environ))
    except FileNotFoundError:
        print(f"gradopt-ds run: no such command: {chosen.command}", file=sys.stderr)
        return 127
    except OSError as error:
        print(f"gradopt-ds run: {chosen.command}: {error.strerror}", file=sys.stderr)
        return 126
