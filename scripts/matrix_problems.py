"""Solves three matrix problems with PolarGrad, Muon, Adam and each problem's own baseline."""

import argparse
import os
import sys
from pathlib import Path

from gradopt_ds.experiments.common import extra

with extra.required():
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from gradopt_ds.experiments.common.command_line import make_parser, positive
    from gradopt_ds.experiments.common.errors import PretrainError
    from gradopt_ds.experiments.common.output_lock import lock
    from gradopt_ds.experiments.common.tables import show
    from gradopt_ds.experiments.matrix_problems import report
    from gradopt_ds.experiments.matrix_problems.problems import PROBLEMS
    from gradopt_ds.experiments.matrix_problems.run import run_all, tasks

EXAMPLES = """\
examples:
  python scripts/matrix_problems.py
      all three problems, every optimizer, constant and decayed steps
  python scripts/matrix_problems.py --problem completion
      the smallest of them: seconds
  python scripts/matrix_problems.py --problem quadratic --steps 200
      fewer steps, to look at the beginning

what to look for: with constant steps PolarGrad goes on to converge, because its step shrinks with
the nuclear norm of the gradient; Muon's step has one size and stops at a plateau of that height
until its learning rate is decayed.
"""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--problem", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="PROBLEM",
        help=f"out of {', '.join(PROBLEMS)} (default: all)",
    )  # fmt: skip
    own = ", ".join(f"{name} {problem.steps}" for name, problem in PROBLEMS.items())
    parser.add_argument("--steps", type=positive, metavar="N", help=f"of each run (default: {own})")
    parser.add_argument(
        "--processes", type=positive, default=os.cpu_count() or 1, metavar="N",
        help="runs at a time, one thread each (default: as many as cores)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path("runs/matrix_problems"),
        help="folder (default: runs/matrix_problems)",
    )  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Run the problems; the exit status is 2 for an output that cannot be written."""
    options = arguments()
    try:
        held = lock(options.output)  # noqa: F841  open, and so locked, until the process ends
    except PretrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    wanted = tasks(options.problem, options.steps)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=sum(task.steps for task in wanted))
        traces = run_all(
            wanted,
            options.processes,
            lambda steps, name: progress.update(bar, advance=steps, description=name),
        )
    report.write(traces, options.output)
    show(report.ends(traces))
    console.print(
        f"written: {options.output}/matrix_problems.csv, .json, ends.csv, .md and a .png a problem"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
