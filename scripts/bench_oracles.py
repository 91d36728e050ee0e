"""Measures every oracle on every kind of matrix, and on gradients of a model in training."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gradopt_ds.experiments.common import extra

with extra.required():
    import torch
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn
    from torch import Tensor

    from gradopt_ds.experiments.common.command_line import make_parser
    from gradopt_ds.experiments.common.errors import PretrainError
    from gradopt_ds.experiments.common.paths import DEEPSPEED, MODELS
    from gradopt_ds.experiments.oracle_benchmark import gradients, report
    from gradopt_ds.experiments.oracle_benchmark.candidates import (
        BASELINE,
        Candidate,
        candidates,
        deepspeed_candidates,
    )
    from gradopt_ds.experiments.oracle_benchmark.matrices import (
        LARGE,
        QUICK_SHAPES,
        SHAPES,
        SPECTRA,
        cases,
        gradient_case,
    )
    from gradopt_ds.experiments.oracle_benchmark.measure import Row, measure
    from gradopt_ds.experiments.oracle_benchmark.totals import totals
    from gradopt_ds.ops.oracles.precision import DTYPES

EXAMPLES = """\
examples:
  python scripts/bench_oracles.py
      every shape but the largest, every spectrum, gradients of the tiny LLaMA: minutes on one core
  python scripts/bench_oracles.py --shapes square 4:1 --model configs/models/60m.json
      the gradients of a larger model: a goal such as "at most 1.9 x Newton-Schulz-5" is held
      against the row of all its matrices together
  python scripts/bench_oracles.py --shapes head --spectra gaussian --longest 60 --rounds 1
      32000 x 2048, without what takes longer than a minute
  python scripts/bench_oracles.py --shapes 1k 4k mlp --spectra gaussian --steps 0 --deepspeed \\
      --dtypes bfloat16 float16 --oracles "newton_schulz 5" "polar_express 5" "DeepSpeed's gram"
      on a GPU: large matrices, some oracles in two dtypes, and DeepSpeed's own
  python scripts/bench_oracles.py --quick
      small shapes, one round: does it work?

how to read it: "direction" is the relative distance from the polar factor of a float64 SVD,
of gradients on the directions that float32 resolves (above 1e-6 of the largest singular value);
"nuclear norm" is the relative error of <G, U>, "time / NS-5" the median time over that of this
library's 5 Newton-Schulz steps in the same run. Every candidate runs in turn, so a slow moment of
the machine hits all alike; set OMP_NUM_THREADS to choose the cores. "% of peak": of the rate of one
large product, measured in the same run.
"""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, EXAMPLES)
    small = [name for name in SHAPES if name not in LARGE]
    listed = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in SHAPES.items())
    parser.add_argument(
        "--shapes", nargs="*", choices=SHAPES, default=small, metavar="SHAPE",
        help=f"out of {listed} (default: {' '.join(small)})",
    )  # fmt: skip
    parser.add_argument(
        "--spectra", nargs="*", choices=SPECTRA, default=SPECTRA, metavar="SPECTRUM",
        help=f"out of {', '.join(map(repr, SPECTRA))} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=Path, default=MODELS / "tiny.json", metavar="PATH",
        help="model whose gradients are captured (default: configs/models/tiny.json)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=5, metavar="N",
        help="training steps before the gradients are taken; 0 leaves the model out (default: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--oracles", nargs="*", metavar="NAME", help="only these, as the tables name them, beside "
        f"the baseline {BASELINE!r} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--dtypes", nargs="*", choices=DTYPES, default=[], metavar="DTYPE",
        help=f"also compute in these, out of {', '.join(DTYPES)}, where an oracle offers them",
    )  # fmt: skip
    parser.add_argument(
        "--deepspeed", action="store_true", help="also DeepSpeed's two, which torch compiles first"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument(
        "--longest", type=float, default=20.0, metavar="SECONDS",
        help="leave out what is expected to take longer per run (default: 20)",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu",
        help="where to compute (default: a GPU if there is one)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small shapes, one round, two steps")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/oracles"), help="folder (default: runs/oracles)"
    )
    return parser.parse_args()


def main() -> int:
    """Run the benchmark; the exit status is 2 if the model cannot be trained."""
    options = arguments()
    shapes = {name: SHAPES[name] for name in options.shapes}
    if options.quick:
        shapes, options.rounds, options.steps = QUICK_SHAPES, 1, min(2, options.steps)
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], TextColumn("{task.fields[now]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        try:
            captured = _captured(options, progress)
            every = _chosen(options)
        except PretrainError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        rows, parts = _measured(options, shapes, every, captured, progress)
    summed = totals(parts, options.model.stem) if parts else []
    report.write([*rows, *parts], summed, options.output, options.device)
    print((options.output / "oracles.md").read_text())
    return 0


def _chosen(options: argparse.Namespace) -> list[Candidate]:
    """List the oracles that are measured, the baseline first."""
    every = candidates(options.dtypes)
    if options.deepspeed:
        every += deepspeed_candidates()
    if options.oracles is None:
        return every
    names = [candidate.name for candidate in every]
    if unknown := [name for name in options.oracles if name not in names]:
        raise PretrainError(f"--oracles {', '.join(unknown)}: known are {', '.join(names)}")
    return [c for c in every if c.name == BASELINE or c.name in options.oracles]


def _captured(options: argparse.Namespace, progress: Progress) -> dict[str, Tensor]:
    """Train the model, and return the gradients of its matrices."""
    if not options.steps:
        return {}
    task = progress.add_task("training", total=options.steps, now=options.model.stem)
    settings = gradients.settings(options.model, DEEPSPEED / "zero2_adamw.json", options.steps)
    device = torch.device(options.device)
    return gradients.capture(settings, 8, device, lambda: progress.advance(task))


def _measured(
    options: argparse.Namespace,
    shapes: dict[str, tuple[int, ...]],
    every: Sequence[Candidate],
    captured: Mapping[str, Tensor],
    progress: Progress,
) -> tuple[list[Row], list[Row]]:
    """Measure every oracle on the cases, and on the gradients."""
    by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for gradient in captured.values():
        by_shape[tuple(gradient.shape)].append(gradient)
    number = len(shapes) * len(options.spectra) + len(by_shape)
    task = progress.add_task("measuring", total=number * len(every) * options.rounds, now="")
    device = torch.device(options.device)

    def follow(label: str) -> Callable[[str], object]:
        return lambda name: progress.update(task, advance=1, now=f"{label}: {name}")

    rows: list[Row] = []
    for case in cases(shapes, tuple(options.spectra), device=device):
        label = f"{case.shape}, {case.spectrum}"
        rows += measure(case, every, options.rounds, options.longest, device, follow(label))
    parts: list[Row] = []
    for members in by_shape.values():
        # As the optimizers do: all matrices of one shape in one call.
        stacked = torch.stack(members)
        case = gradient_case(f"{options.model.stem}, {len(members)} matrices", stacked)
        label = f"gradients {tuple(stacked.shape)}"
        parts += measure(case, every, options.rounds, options.longest, device, follow(label))
    return rows, parts


if __name__ == "__main__":
    sys.exit(main())
