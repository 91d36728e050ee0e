"""The command line of one run: ``scripts/pretrain.py``."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from gradopt_ds.experiments.common.command_line import add_settings, build
from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain.settings import RunSettings

EPILOG = """\
example:
  deepspeed --num_gpus 2 scripts/pretrain.py \\
      --deepspeed_config configs/deepspeed/zero2_swan.json --model configs/models/tiny.json \\
      --data shakespeare --steps 300 --output runs/swan

The DeepSpeed JSON keeps its meaning on any number of ranks: its train_batch_size is kept and the
accumulation follows, unless --micro-batch, --accumulation or --train-batch say otherwise.
"""


class RaisingParser(argparse.ArgumentParser):
    """Raise where argparse would print: once for every rank."""

    def error(self, message: str) -> NoReturn:
        """Raise a mistake in the command line."""
        raise PretrainError(message)


def parse(arguments: Sequence[str] | None = None) -> RunSettings:
    """Read settings from a command line (``sys.argv`` by default).

    Raises:
        PretrainError: a flag that there is not, or a value out of range; the message names it.
    """
    parser = RaisingParser(
        description="Pre-train a language model under DeepSpeed with any optimizer its JSON names.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(parser, RunSettings)
    # The DeepSpeed launcher appends it; DeepSpeed itself reads the environment instead.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    values = vars(parser.parse_args(arguments))
    values.pop("local_rank")
    return build(RunSettings, values)
