"""Plans the exchange of a model on any number of ranks, without processes and without weights."""

import sys
from collections.abc import Sequence

from gradopt_ds.experiments.common import extra

with extra.required():
    from rich.console import Console

    from gradopt_ds.experiments.common import models
    from gradopt_ds.experiments.common.command_line import add_settings, build, make_parser
    from gradopt_ds.experiments.common.errors import PretrainError
    from gradopt_ds.experiments.common.output_lock import lock
    from gradopt_ds.experiments.common.paths import find_model
    from gradopt_ds.experiments.common.tables import show
    from gradopt_ds.experiments.exchange_plan import report
    from gradopt_ds.experiments.exchange_plan.settings import PlanSettings
    from gradopt_ds.experiments.exchange_plan.stages import all_rows, per_stage, plans_by_stage

EPILOG = """\
what is printed:
  Which strategy each shape got: local (whole in one rank's slice, never sent), owner (put together
  on one rank) or gram (too large for that: the rows stay, their Gram matrix is all-reduced). Then
  per rank: matrices it applies the rule to, the oracle's floating-point operations, bytes it sends
  (pieces and updates; not the all-reduces of gram), a bound on what the exchange and the rule
  occupy, and the imbalance: the busiest rank's operations over the mean.
  The layouts are aligned like DeepSpeed's: at stages 1 and 2 one flat tensor of all matrices in the
  order of the model's parameters, padded to a multiple of twice the ranks; at stage 3 equal chunks
  of every matrix, in sub-groups.
  --tensor-parallel cuts the layers before ZeRO does, by the rules of DeepSpeed's AutoTP; a matrix
  then has one owner among the ranks x tensor-parallel ranks of its stage. --pipeline gives every
  stage consecutive layers, as PipelineModule does. Stages share nothing in a step, so a step takes
  as long as that of the busiest. There are ranks x tensor-parallel x pipeline processes, numbered
  stage by stage, and within a stage data-parallel rank by data-parallel rank.

examples:
  gradopt-ds plan --model 7b --stage 3 --ranks 512
  gradopt-ds plan --model 7b --ranks 64 --include lm_head.weight \\
      --exchange-bucket-size 268435456
      the head is tall and larger than this bucket: it gets the strategy gram
  gradopt-ds plan --model 7b --stage 1 --ranks 16 --tensor-parallel 8 --pipeline 8
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; the exit status is 2 for wrong settings."""
    parser = make_parser(__doc__, EPILOG, "gradopt-ds plan")
    add_settings(parser, PlanSettings)
    flags = vars(parser.parse_args(arguments))
    try:
        settings = build(PlanSettings, {**flags, "model": find_model(flags["model"])})
        held = lock(settings.output)  # noqa: F841  open, and so locked, until the process ends
        model = models.on_meta(models.model_config(settings.model))
        stages = plans_by_stage(model, settings)
        plans = [plan for own in stages for plan in own]
        if not plans:
            raise PretrainError(f"{settings.model} has no matrix")
    except (PretrainError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = all_rows(stages, settings)
    by_stage = per_stage(stages, rows)
    report.write(plans, rows, by_stage, settings)
    show(report.shapes_table(plans))
    # A line parts least, mean and most of all ranks from the busiest ranks.
    show(report.digest(report.ranks_table(rows)), line_below=[2])
    if settings.pipeline > 1:
        show(report.stages_table(by_stage))
    console = Console()
    console.print(report.summary(plans), highlight=False)
    console.print(
        f"written: {settings.output}/plan.json, .csv, .md and shapes.csv, .md", highlight=False
    )
    return 0
