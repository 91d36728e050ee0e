"""How a rank that failed ends: one message for all ranks, and it comes last.

When one rank fails, the others soon follow with errors of their own ("connection closed by peer"),
and when all fail alike, all would print the same. Only the first rank's message says the cause, and
the launcher ends the other ranks within a second or two of its exit. So a rank whose error may
follow from another rank's waits before it prints, and is ended meanwhile.
"""

import os
import sys
import time
import traceback

from gradopt_ds.experiments.common.errors import PretrainError, StoppedError

FOLLOWS = 5.0
"""Seconds that an error waits which may follow from another rank's."""
STEP = 2.0
"""Seconds between the ranks of one machine, which may all have failed alike."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell gives it."""


def report(error: BaseException) -> int:
    """Say why this rank ends, unless another rank has said it first.

    Args:
        error: a :class:`PretrainError` is one line, any other error its traceback; of a run that
            was asked to stop nothing is said here.

    Returns:
        The process's exit status.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, StoppedError):
        return error.exit_status
    time.sleep(delay(error))
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    where = f" on rank {rank}" if ranks > 1 and rank else ""
    sys.stdout.flush()
    if isinstance(error, PretrainError):
        print(f"error{where}: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    trace = "".join(traceback.format_exception(error))
    print(f"{trace}error{where}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1


def delay(error: BaseException) -> float:
    """Choose how many seconds this rank waits with its message."""
    rank = int(os.environ.get("RANK", 0))
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0.0
    # The first rank of every other machine comes after rank 0, too.
    place = int(os.environ.get("LOCAL_RANK", 0)) or int(rank > 0)
    return STEP * place + (FOLLOWS if _may_follow(error) else 0.0)


def _may_follow(error: BaseException) -> bool:
    """Tell whether another rank may be the cause: a collective with it ends in a RuntimeError."""
    if not isinstance(error, PretrainError):
        return True
    cause = error.__cause__
    return isinstance(cause, RuntimeError) and not isinstance(cause, NotImplementedError)
