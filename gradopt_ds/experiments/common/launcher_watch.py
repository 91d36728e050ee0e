"""A rank ends when the launcher that started it has gone.

DeepSpeed's runner passes no SIGTERM on to the processes it started, and a launcher that is killed
cannot: its ranks would train on as orphans, on devices that the scheduler has given to others.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

INTERVAL = 1.0  # seconds
STATUS = 143
"""Exit status of a rank whose launcher has gone: that of a process ended by SIGTERM."""
LAUNCHERS = {
    "deepspeed", "runner.py", "deepspeed.launcher.runner", "launch.py", "deepspeed.launcher.launch",
    "torchrun", "torch.distributed.run",
}  # fmt: skip
"""Last parts of the arguments of a command line that is a launcher's."""
STARTER = "GRADOPT_DS_STARTER"
"""Environment variable with the id of the script of this project that started the launcher."""


def end_with_launcher(end: Callable[[], None] | None = None) -> None:
    """Watch the launcher, and what launched it, from a thread of its own.

    Only DeepSpeed's and torch's launchers, and a script in ``STARTER``, are watched, where /proc
    shows processes: a shell may well end before a run that it started in the background.

    Args:
        end: called once the launcher has gone; by default this process ends then, with
            :data:`STATUS`.
    """
    end = end or _end
    if os.getppid() == 1 and "CROSS_SIZE" in os.environ:  # set by DeepSpeed's launcher
        end()
    starter = int(os.environ.get(STARTER, 0))
    if starter and parent_of(starter) is None:
        end()
    watched = []
    child = os.getpid()
    while (parent := parent_of(child)) and (parent == starter or is_launcher(_command(parent))):
        watched.append((child, parent))
        child = parent
    if watched:
        threading.Thread(target=_watch, args=(watched, end), daemon=True).start()


def is_launcher(command: Sequence[str]) -> bool:
    """Tell whether a command line is that of a launcher."""
    return any(argument.rpartition("/")[2] in LAUNCHERS for argument in command[:4])


def parent_of(process: int) -> int | None:
    """Return the parent's id; None for a process that has ended, or where there is no /proc."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[1])  # the name before may hold anything


def _command(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _watch(watched: Sequence[tuple[int, int]], end: Callable[[], None]) -> None:
    while all(parent_of(child) == parent for child, parent in watched):
        time.sleep(INTERVAL)
    end()


def _end() -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print("error: the launcher has gone, so its ranks end", file=sys.stderr, flush=True)
    os._exit(STATUS)
