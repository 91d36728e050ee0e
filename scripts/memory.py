"""How much memory a training run needs per rank: estimated from shapes, or measured."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.common.command_line import add_settings, build
from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.local_ranks import RanksError
from gradopt_ds.experiments.memory_report import report
from gradopt_ds.experiments.memory_report.largest import largest
from gradopt_ds.experiments.memory_report.measure import measure
from gradopt_ds.experiments.memory_report.settings import (
    EstimateSettings,
    MeasureSettings,
    PaperSettings,
    with_json,
)
from gradopt_ds.memory import papers
from gradopt_ds.memory.estimate import estimate

MODELS = Path(__file__).resolve().parent.parent / "configs" / "models"
WIDTH = 220
EPILOG = """\
estimate: bytes of the rank that holds the most, from shapes alone; no process, no weight.
  weights, masters, state, buffers are held throughout; gradients, communication and activations
  meet at the end of the backward pass, gradients in step and workspace in the optimizer's step; the
  peak is the greater of the two. Workspace and what stage 3 gathers are bounds, the rest is exact.
measure: the same from the tensors of real engines, each optimizer in fresh processes, and the peak:
  what the device's allocator counted, or on the CPU the process's resident memory less what it held
  before there was a model. An optimizer whose estimate exceeds what is available is not run.
paper: bf16 weights and state of 60M to 7B, as the papers count.

examples:
  python scripts/memory.py estimate --model 2b --stage 2 --ranks 8 --precision bf16
  python scripts/memory.py estimate --model 7b --stage 3 --ranks 8 --micro-batch 8 --card 80
  python scripts/memory.py estimate --model tiny --ranks 2 \\
      --deepspeed_config configs/deepspeed/zero2_swan.json
  python scripts/memory.py measure --model 60m --stage 2 --ranks 2 --optimizers AdamW,SWAN
  python scripts/memory.py paper
"""


def main() -> int:
    """Run a subcommand; status 1 if a rank failed, 2 for wrong settings or too little memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (settings, _) in COMMANDS.items():
        add_settings(commands.add_parser(name), settings)
    told = vars(parser.parse_args())
    settings, run = COMMANDS[told.pop("command")]
    try:
        if "model" in told:
            told["model"] = models.find(told["model"], MODELS)
        return run(build(settings, with_json(told)))
    except (PretrainError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RanksError as error:
        print(f"{error}\nerror: a rank failed", file=sys.stderr)
        return 1


def _estimate(settings: EstimateSettings) -> int:
    model = models.on_meta(models.model_config(settings.model, None, settings.sequence_length))
    found = {
        name: estimate(model, block, settings.setup) for name, block in settings.blocks.items()
    }
    rows = report.compared(found)
    console = Console()
    told: dict[str, Any] = {"settings": settings.model_dump(mode="json")}
    title = (
        f"{settings.model.stem}, ZeRO {settings.stage}, {settings.ranks} rank(s), "
        f"{settings.precision}, {settings.micro_batch} x {settings.sequence_length} tokens: GiB"
    )
    if settings.card is not None:
        told["largest"] = {
            name: largest(block, settings.setup, int(settings.card * report.GIB))
            for name, block in settings.blocks.items()
        }
    path = settings.output / "estimate"
    report.write(rows, report.ESTIMATED, told, path)
    # Matplotlib is the `plot` extra; a table needs none.
    from gradopt_ds.experiments.memory_report import figure

    figure.draw(rows, title, path.with_suffix(".png"))
    shown = report.table(rows, report.ESTIMATED, title)
    Console(width=max(WIDTH, console.width)).print(shown)
    for name, size in told.get("largest", {}).items():
        text = (
            "none of the family fits"
            if size is None
            else f"{size['parameters'] / 1e9:.2f}B parameters (hidden {size['hidden_size']}, "
            f"{size['layers']} layers)"
        )
        console.print(
            f"largest LLaMA on {settings.card:g} GiB with {name}: {text}", highlight=False
        )
    console.print(f"written: {path}.json, .csv, .md, .png", highlight=False)
    return 0


def _measure(settings: MeasureSettings) -> int:
    console = Console()
    with console.status("starting") as status:
        watch = status.update if console.is_terminal else console.print
        rows, found, refused = measure(settings, watch)
    path = settings.output / "measure"
    told = {"settings": settings.model_dump(mode="json"), "ranks": found, "refused": refused}
    report.write(rows, report.MEASURED, told, path)
    title = f"{settings.model.stem}, ZeRO {settings.stage}, {settings.precision}: GiB per rank"
    console.print(report.table(rows, report.MEASURED, title))
    for name, ranks in found.items():
        console.print(
            f"{name}: {min(ranks[0]['seconds']):.1f} s a step; while building at most "
            f"{max(one['building'] for one in ranks) / report.GIB:.2f} GiB",
            highlight=False,
        )
    console.print(f"written: {path}.json, .csv, .md", highlight=False)
    for message in refused:
        print(f"error: {message}", file=sys.stderr)
    return 2 if refused else 0


def _paper(settings: PaperSettings) -> int:
    shapes = {
        size: models.on_meta(models.model_config(MODELS / f"{size}.json")) for size in papers.SIZES
    }
    rows = papers.table(shapes)
    columns = {"optimizer": "bf16 weights + state, GiB", **{size: size for size in shapes}}
    report.write(rows, columns, {}, settings.output / "paper")
    console = Console()
    shown = report.table(rows, columns, "the papers' convention")
    Console(width=max(WIDTH, console.width)).print(shown)
    console.print(f"written: {settings.output}/paper.json, .csv, .md", highlight=False)
    return 0


COMMANDS: dict[str, tuple[Any, Any]] = {
    "estimate": (EstimateSettings, _estimate),
    "measure": (MeasureSettings, _measure),
    "paper": (PaperSettings, _paper),
}

if __name__ == "__main__":
    sys.exit(main())
