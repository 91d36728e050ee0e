"""One rank: run the jobs that come through the pipe, until it is closed.

``python -m tests.distributed.worker FD``; ``launch.py`` starts one for every rank.
"""

import faulthandler
import gc
import os
import random
import reprlib
import signal
import sys
import traceback
from multiprocessing.connection import Connection

import deepspeed
import numpy as np
import torch
from deepspeed.accelerator import get_accelerator

import gradopt_ds  # noqa: F401  (registers the optimizers)
from gradopt_ds.experiments.common.process_end import end_process
from tests.distributed.harness import BACKEND_VARIABLE, Job, Outcome, take_recorded
from tests.distributed.parallel_state import forget_engines


def main() -> None:
    """Join the process group, say so, and work."""
    faulthandler.enable(all_threads=False)
    # How `launch.py` ends a rank that hangs: it prints where, and dies.
    faulthandler.register(signal.SIGUSR1, all_threads=False, chain=True)
    torch.set_num_threads(1)
    if get_accelerator().device_name() == "cpu":
        # Emulated on this CPU, and refused by DeepSpeed for that reason; the arithmetic is right.
        get_accelerator().is_fp16_supported = lambda: True
    get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend=os.environ[BACKEND_VARIABLE], verbose=False)
    pipe = Connection(int(sys.argv[1]))
    pipe.send(Outcome())
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(outcome_of(job))


def outcome_of(job: Job) -> Outcome:
    """Run the body; it finds the same random numbers whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    forget_engines()
    failure = ""
    try:
        job.body(*(() if job.case is None else (job.case,)))
    except BaseException as error:  # pytest's own failures are no Exception
        failure = described(error)
    # DeepSpeed collects garbage often; what outlives a job is no garbage, and need not be visited.
    gc.collect()
    gc.freeze()
    return Outcome(failure, take_recorded())


def described(error: BaseException) -> str:
    """The traceback from the body on; a bare ``assert`` says what the values were."""
    assert error.__traceback__
    text = "".join(traceback.format_exception(error.with_traceback(error.__traceback__.tb_next)))
    if isinstance(error, AssertionError) and not str(error):
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        values = [f"  {name} = {reprlib.repr(value)}" for name, value in frame.f_locals.items()]
        text = "\n".join(["where", *values, text])
    return text


if __name__ == "__main__":
    main()
    end_process()
