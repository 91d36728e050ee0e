"""Pre-trains a language model: ``deepspeed scripts/pretrain.py --help`` tells how."""

import os
import sys

import gradopt_ds  # noqa: F401  makes SWAN, PolarGrad, … known to DeepSpeed's JSON
from gradopt_ds.experiments.common import extra

with extra.required():
    from gradopt_ds.experiments.common.errors import PretrainError
    from gradopt_ds.experiments.common.process_end import end_process
    from gradopt_ds.experiments.pretrain.command_line import parse
    from gradopt_ds.experiments.pretrain.loop import pretrain


def main() -> int:
    """Runs one rank; the exit status tells its end: 2 for wrong settings, 3 for divergence."""
    try:
        pretrain(parse())
    except PretrainError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    end_process(main())
