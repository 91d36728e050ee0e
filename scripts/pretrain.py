"""Pre-trains a language model: ``deepspeed scripts/pretrain.py --help`` tells how."""

import gradopt_ds  # noqa: F401  makes SWAN, PolarGrad, … known to DeepSpeed's JSON
from gradopt_ds.experiments.common import extra

with extra.required():
    from gradopt_ds.experiments.common import failure
    from gradopt_ds.experiments.common.launcher_watch import end_with_launcher
    from gradopt_ds.experiments.common.process_end import end_process
    from gradopt_ds.experiments.common.stopping import StopRequest
    from gradopt_ds.experiments.pretrain.command_line import parse
    from gradopt_ds.experiments.pretrain.loop import pretrain


def main() -> int:
    """Run one rank; its exit status: 2 for wrong settings, 3 for divergence, 75 if stopped."""
    stop = StopRequest()
    stop.listen()
    end_with_launcher(lambda: stop.ask("the end of the launcher"))
    try:
        pretrain(parse(), stop)
    except (Exception, KeyboardInterrupt) as error:
        return failure.report(error)
    return 0


if __name__ == "__main__":
    end_process(main())
