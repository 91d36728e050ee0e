"""``gradopt-ds``: what users do beside training, one subcommand each.

A subcommand is a module with ``main(arguments) -> status``. It is imported when it is called, so
that converting a checkpoint does not need the packages that reports need.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from gradopt_ds import __version__


@dataclass(frozen=True)
class Subcommand:
    """A word after ``gradopt-ds``.

    Attributes:
        module: has ``main(arguments)``, which returns the exit status.
        help: one line for ``gradopt-ds --help``.
    """

    module: str
    help: str


SUBCOMMANDS = {
    "convert": Subcommand(
        "gradopt_ds.integration.checkpoints.universal",
        "make a checkpoint that any number of ranks can load",
    ),
    "memory": Subcommand(
        "gradopt_ds.experiments.memory_report.command",
        "bytes per rank of a training run: estimated, measured, or as the papers count",
    ),
    "plan": Subcommand(
        "gradopt_ds.experiments.exchange_plan.command",
        "what every rank sends, computes and holds in a step, for any number of ranks",
    ),
    "run": Subcommand(
        "gradopt_ds.run",
        "start a command in whose processes DeepSpeed knows the library's names",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the words after its name are its own.

    Returns:
        The exit status.
    """
    lines = [f"  {name:<10}{subcommand.help}" for name, subcommand in SUBCOMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="gradopt-ds",
        description="SWAN, SinkGD, PolarGrad, Muon and GradPower for DeepSpeed.",
        epilog="\n".join(["subcommands:", *lines, "", "SUBCOMMAND --help explains it."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gradopt-ds {__version__}")
    parser.add_argument("subcommand", choices=SUBCOMMANDS, metavar="SUBCOMMAND", help="see below")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="…", help="its own arguments")
    chosen = parser.parse_args(arguments)
    status: int = importlib.import_module(SUBCOMMANDS[chosen.subcommand].module).main(chosen.words)
    return status


if __name__ == "__main__":
    sys.exit(main())
