"""Trains the same model on the same data with several optimizers and sets them side by side."""

import argparse
import signal
import sys
from pathlib import Path

from gradopt_ds.experiments.common import extra

with extra.required():
    from rich.console import Console

    from gradopt_ds.experiments.common.command_line import add_settings, make_parser, positive
    from gradopt_ds.experiments.common.errors import PretrainError
    from gradopt_ds.experiments.common.output_lock import lock
    from gradopt_ds.experiments.common.paths import DEEPSPEED, MODELS
    from gradopt_ds.experiments.common.tables import show
    from gradopt_ds.experiments.compare import comparison, figure, report
    from gradopt_ds.experiments.pretrain.settings import RunSettings

SCRIPT = Path(__file__).resolve().with_name("pretrain.py")
EXAMPLES = """\
examples:
  python scripts/compare.py
      AdamW, SWAN, PolarGrad and AdamPower on the corpus in the package: the demo
  python scripts/compare.py configs/deepspeed/zero2_adamw.json --seeds 0 1 2 \\
      --grid optimizer.params.lr=1e-3:1e-2:5 --output runs/sweep
      a learning-rate sweep; each optimizer's best point is marked and drawn
  python scripts/compare.py configs/deepspeed/zero2_adampower.json --ranks 1 --jobs 2 \\
      --grid schedule=cosine,wsd --grid optimizer.params.power=0.9,1.0,1.2
      a grid over a setting of the run and one of the JSON, two runs at a time
"""
OPTIMIZERS = ("adamw", "swan", "polargrad", "adampower")
# What two CPU cores train four times in about two and a half minutes, launching included.
DEMO = {
    "model": MODELS / "tiny.json",
    "steps": 80,
    "validation_sequences": 64,
    "tensorboard": False,
}
OWN = ("deepspeed_config", "output", "seed", "resume", "accept_changes")


def arguments() -> argparse.Namespace:
    """Parse the command line; settings of the runs are those of ``scripts/pretrain.py``."""
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "configs",
        nargs="*",
        type=Path,
        default=[DEEPSPEED / f"zero2_{name}.json" for name in OPTIMIZERS],
        help=f"DeepSpeed JSON files (default: those of {', '.join(OPTIMIZERS)})",
    )
    parser.add_argument("--ranks", type=positive, default=2, help="ranks of each run (default: 2)")
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N",
        help="runs at a time; on GPUs they share the same ones (default: 1)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds (default: 0)")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=VALUES",
        help="runs every config at each value: KEY=LOW:HIGH:COUNT (geometric) or KEY=A,B,C, "
        "e.g. optimizer.params.lr=1e-3:1e-1:5, or schedule=cosine,wsd; repeat for a product",
    )
    parser.add_argument("--fresh", action="store_true", help="also run what has finished before")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/compare"),
        help="directory of the runs and of the comparison (default: runs/compare)",
    )
    add_settings(parser.add_argument_group("settings of every run"), RunSettings, OWN, DEMO)
    return parser.parse_args()


def main() -> int:
    """Run the comparison; the exit status is 1 if a run failed, 2 for wrong settings."""
    own = vars(arguments())
    configs, seeds, grid = own.pop("configs"), own.pop("seeds"), own.pop("grid")
    ranks, jobs = own.pop("ranks"), own.pop("jobs")
    fresh, output = own.pop("fresh"), own.pop("output")
    # A log has no width of its own, and a table cut to 80 columns loses digits.
    console = Console(width=None if sys.stdout.isatty() else 120)
    # The runs are ended on the way out.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        held = lock(output)  # noqa: F841  open, and so locked, until the process ends
        wanted = comparison.members(configs, {**DEMO, **own}, seeds, grid, output)
        results = comparison.run_all(wanted, ranks, jobs, SCRIPT, fresh, console)
    except PretrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    groups = report.gather(results)
    report.write(groups, output)
    figure.draw(groups, output / "comparison.png")
    show(report.make_table(groups), bold=report.best(groups))
    console.print(f"written: {output}/comparison.json, .csv, .md, .png", highlight=False)
    bad = {"failed"} if grid else {"failed", "diverged"}
    return int(any(group["status"] in bad for group in groups))


if __name__ == "__main__":
    sys.exit(main())
