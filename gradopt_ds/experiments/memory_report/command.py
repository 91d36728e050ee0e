"""How much memory a training run needs per rank: estimated from shapes, or measured."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.common import extra

with extra.required():
    from rich.console import Console

    from gradopt_ds.experiments.common import models
    from gradopt_ds.experiments.common.command_line import add_settings, build, make_parser
    from gradopt_ds.experiments.common.errors import PretrainError
    from gradopt_ds.experiments.common.launching import RanksError
    from gradopt_ds.experiments.common.output_lock import lock
    from gradopt_ds.experiments.common.paths import MODELS, find_model
    from gradopt_ds.experiments.common.tables import Table, show
    from gradopt_ds.experiments.memory_report import figure, report
    from gradopt_ds.experiments.memory_report.largest import largest, write_shape
    from gradopt_ds.experiments.memory_report.measure import measure
    from gradopt_ds.experiments.memory_report.settings import (
        EstimateSettings,
        MeasureSettings,
        PaperSettings,
        with_json,
    )
    from gradopt_ds.memory import papers
    from gradopt_ds.memory.estimate import estimate

EPILOG = """\
estimate: bytes of the rank that holds the most, from shapes alone; no process, no weight.
  weights, masters, state, buffers are held throughout; gradients, communication and activations
  meet at the end of the backward pass, gradients in step and workspace in the optimizer's step; the
  peak is the greater of the two. Workspace and what stage 3 gathers are bounds, the rest is exact.
  --tensor-parallel and --pipeline: of what AutoTP, or PipelineModule, leaves to a rank. There are
  ranks x tensor-parallel x pipeline processes. What stages send each other is not counted.
measure: the same from the tensors of real engines, each optimizer in fresh processes, and the peak:
  what the device's allocator counted, or on the CPU the process's resident memory less what it held
  before there was a model. An optimizer whose estimate exceeds what is available is not run.
paper: bf16 weights and state of 60M to 7B, as the papers count.

examples:
  gradopt-ds memory estimate --model 2b --stage 2 --ranks 8 --precision bf16
  gradopt-ds memory estimate --model 7b --stage 3 --ranks 8 --micro-batch 8 --card 80
  gradopt-ds memory estimate --model 7b --stage 1 --ranks 4 --tensor-parallel 4 --pipeline 4
  gradopt-ds memory estimate --model tiny --ranks 2 \\
      --deepspeed_config configs/deepspeed/zero2_swan.json
  gradopt-ds memory measure --model 60m --stage 2 --ranks 2 --optimizers AdamW,SWAN
  gradopt-ds memory paper
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; status 1 if a rank failed, 2 for wrong settings or too little memory."""
    parser = make_parser(__doc__, EPILOG, "gradopt-ds memory")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (settings, _) in COMMANDS.items():
        add_settings(commands.add_parser(name), settings)
    flags = vars(parser.parse_args(arguments))
    settings, run = COMMANDS[flags.pop("command")]
    try:
        if "model" in flags:
            flags["model"] = find_model(flags["model"])
        built = build(settings, with_json(flags))
        held = lock(built.output)  # noqa: F841  open, and so locked, until the process ends
        return run(built)
    except (PretrainError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RanksError as error:
        print(f"{error}\nerror: a rank failed", file=sys.stderr)
        return 1


def _estimate(settings: EstimateSettings) -> int:
    model = models.on_meta(models.model_config(settings.model, None, settings.sequence_length))
    rows = report.compared(
        {name: estimate(model, block, settings.setup) for name, block in settings.blocks.items()}
    )
    title = (
        f"{settings.model.stem}, ZeRO {settings.stage}, {settings.ranks} rank(s)"
        f"{_sizes(settings)}, {settings.precision}, "
        f"{settings.micro_batch} x {settings.sequence_length} tokens: GiB"
    )
    facts: dict[str, Any] = {"settings": settings.model_dump(mode="json")}
    if settings.card is not None:
        facts["largest"] = {
            name: largest(block, settings.setup, int(settings.card * report.GIB))
            for name, block in settings.blocks.items()
        }
        for name, size in facts["largest"].items():
            if size is not None:
                shape = write_shape(size["hidden_size"], _file_of(settings, name))
                facts["largest"][name] = {**size, "model": str(shape)}
    path = settings.output / "estimate"
    table = Table(report.ESTIMATED, rows, title)
    report.write(table, facts, path)
    figure.draw(rows, title, path.with_suffix(".png"))
    show(table)
    console = Console()
    for name, size in facts.get("largest", {}).items():
        text = (
            "none of the family fits"
            if size is None
            else f"{size['parameters'] / 1e9:.2f}B parameters (hidden {size['hidden_size']}, "
            f"{size['layers']} layers): {size['model']}"
        )
        console.print(
            f"largest LLaMA on {settings.card:g} GiB with {name}: {text}", highlight=False
        )
    console.print(f"written: {path}.json, .csv, .md, .png", highlight=False)
    return 0


def _file_of(settings: EstimateSettings, name: str) -> Path:
    return settings.output / f"largest_{name.replace(': ', '_')}.json"


def _sizes(settings: EstimateSettings) -> str:
    sizes = {"tensor-parallel": settings.tensor_parallel, "stage(s)": settings.pipeline}
    return "".join(f" x {size} {name}" for name, size in sizes.items() if size > 1)


def _measure(settings: MeasureSettings) -> int:
    console = Console()
    with console.status("starting") as status:
        watch = status.update if console.is_terminal else console.print
        rows, results, refused = measure(settings, watch)
    path = settings.output / "measure"
    title = f"{settings.model.stem}, ZeRO {settings.stage}, {settings.precision}: GiB per rank"
    table = Table(report.MEASURED, rows, title)
    facts = {"settings": settings.model_dump(mode="json"), "ranks": results, "refused": refused}
    report.write(table, facts, path)
    figure.draw_measured(rows, title, path.with_suffix(".png"))
    show(table)
    for name, ranks in results.items():
        console.print(
            f"{name}: {min(ranks[0]['seconds']):.1f} s a step; while building at most "
            f"{max(rank['building'] for rank in ranks) / report.GIB:.2f} GiB",
            highlight=False,
        )
    console.print(f"written: {path}.json, .csv, .md, .png", highlight=False)
    for message in refused:
        print(f"error: {message}", file=sys.stderr)
    return 2 if refused else 0


def _paper(settings: PaperSettings) -> int:
    shapes = {
        size: models.on_meta(models.model_config(MODELS / f"{size}.json")) for size in papers.SIZES
    }
    columns = report.paper_columns(papers.SIZES)
    table = Table(columns, papers.table(shapes), "the papers' convention")
    report.write(table, {}, settings.output / "paper")
    show(table)
    console = Console()
    console.print(f"written: {settings.output}/paper.json, .csv, .md", highlight=False)
    return 0


COMMANDS: dict[str, tuple[Any, Any]] = {
    "estimate": (EstimateSettings, _estimate),
    "measure": (MeasureSettings, _measure),
    "paper": (PaperSettings, _paper),
}
