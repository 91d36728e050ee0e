"""Times the optimizer step of real DeepSpeed engines and sets it beside DeepSpeed's own Muon."""

import sys

from gradopt_ds.experiments.common import extra

with extra.required():
    from rich.console import Console

    from gradopt_ds.experiments.common.command_line import add_settings, build, make_parser
    from gradopt_ds.experiments.common.errors import PretrainError
    from gradopt_ds.experiments.common.launching import RanksError
    from gradopt_ds.experiments.common.paths import find_model
    from gradopt_ds.experiments.common.tables import show
    from gradopt_ds.experiments.step_benchmark import figure, launch, report
    from gradopt_ds.experiments.step_benchmark.settings import BenchSettings

EPILOG = """\
what is measured:
  A step is engine.backward and engine.step together, on the slowest rank, less the median
  engine.backward of AdamW. DeepSpeed's Muon orthogonalises inside backward at stages 1 and 2, and
  there reduces cut matrices to all ranks, so the two calls only make sense together; AdamW's
  backward is what every optimizer needs anyway. Learning rates are 1e-20: no weight moves, and
  every step of every optimizer sees the same gradients (the losses in the JSON are equal).
  Engines live one at a time. Every round builds, warms up and times each of them, and begins with
  another one. DeepSpeed's Muon takes its faster ns_method, this library's its faster oracle,
  both with 5 Newton-Schulz steps.
  Bytes are what a rank sends from backward to the end of the step, by ring counting: an all-reduce
  of N bytes sends 2N(W-1)/W, an all-gather or reduce-scatter of N in all N(W-1)/W, an all-to-all
  what goes to others. Transient: the most bytes that the optimizer's own work allocates and still
  holds, beside its state. Both are counted in a step that is not timed.
  Host: the CPU's time in the same two calls. Operations: of a whole step, forward pass included;
  kernels on CUDA, elsewhere what torch dispatches. Allocated: the peak on a CUDA device.
  On CUDA devices the times are those of device events. Oracle GFLOP/s: the oracle's operations on
  the busiest rank over the whole step, so a lower bound of its speed.

examples:
  python scripts/bench_step.py --model 130m --stage 3
  python scripts/bench_step.py --model 60m --stage 2 --optimizers AdamW,DeepSpeedMuon,MatrixMuon
"""


def main() -> int:
    """Run the benchmark; the exit status is 1 if a rank failed, 2 for wrong settings."""
    parser = make_parser(__doc__, EPILOG)
    add_settings(parser, BenchSettings)
    flags = vars(parser.parse_args())
    console = Console()
    try:
        settings = build(BenchSettings, {**flags, "model": find_model(flags["model"])})
        with console.status("starting") as status:
            watch = status.update if console.is_terminal else console.print
            rows = report.make_rows(launch.launch(settings, watch))
    except PretrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RanksError as error:
        print(f"{error}\nerror: a rank failed", file=sys.stderr)
        return 1
    table = report.make_table(rows, settings)
    report.write(table, settings)
    figure.draw(rows, table.title, settings.output / "bench_step.png")
    show(table)
    console.print(f"written: {settings.output}/bench_step.json, .csv, .md, .png", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
