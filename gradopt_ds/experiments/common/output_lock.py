"""One run at a time in an output folder."""

import fcntl
import os
import socket
import sys
from io import TextIOWrapper
from pathlib import Path

from gradopt_ds.experiments.common.errors import PretrainError

FILE = ".lock"


def lock(folder: Path) -> TextIOWrapper:
    """Make ``folder`` and lock it for as long as the returned file is open.

    The kernel lets go when the process ends, however it ends, so that a crash leaves no lock
    behind. The file itself stays, and must: a lock on a deleted file excludes nobody.

    Args:
        folder: of a run's or a comparison's results.

    Raises:
        PretrainError: another process holds the lock, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / FILE).open("a+")
    except OSError as error:
        raise PretrainError(
            f"--output {folder} cannot be written ({error.strerror}: {error.filename}): name a "
            "folder that can"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise PretrainError(
            f"--output {folder} is in use by {holder}: wait, end it, or name another --output"
        ) from None
    except OSError as error:
        # Some network file systems have no locks; nothing is lost there but this protection.
        print(
            f"warning: {folder} cannot be locked ({error.strerror}): start no second run there",
            file=sys.stderr,
        )
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
