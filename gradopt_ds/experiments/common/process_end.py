"""The end of a rank's process, without the interpreter's teardown."""

import atexit
import os
import sys
from typing import NoReturn


def end_process(status: int = 0) -> NoReturn:
    """Run what is registered with ``atexit``, flush the standard streams, and leave.

    At stage 3 autograd's hooks hold DeepSpeed's engine for as long as the process lives, and the
    engine its process groups. So gloo's worker threads are still there while Python takes itself
    apart, and one that wants the interpreter's lock at that moment aborts the process: "terminate
    called without an active exception". The launcher then reports a finished run as failed, with
    exit code -6. Nothing is left to tear down when a rank has written its results.

    Args:
        status: of the process.
    """
    atexit._run_exitfuncs()  # which os._exit would leave out
    if status == 0:
        _finalize_mpi()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _finalize_mpi() -> None:
    """Take leave of ``mpirun``, which else reports a finished run as failed.

    mpi4py does so in the interpreter's teardown. All ranks wait for one another here, so a rank
    that failed must not come: ``mpirun`` ends the others when it goes without taking leave.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()
