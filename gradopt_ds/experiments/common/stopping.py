"""A run that is asked to stop finishes its step and saves; a second signal ends it at once.

SLURM asks with SIGTERM, or with the signal that ``--signal`` names; a launcher that has gone asks,
too. Python runs a signal's handler between two steps of the interpreter, and a rank that waits in a
collective takes none. So the signals arrive at a thread, through the file that the C handler writes
to: it is what ends a rank at a second signal, or when the time to save is over.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from gradopt_ds.experiments.common.errors import StoppedError

SIGNALS = tuple(
    number
    for name in ("SIGTERM", "SIGUSR1")
    if (number := getattr(signal, name, None)) is not None  # Windows has no SIGUSR1
)
SAME = 2.0
"""Seconds in which signals count as one: a group's reaches a rank by itself, and once more from its
launcher, which passes it on."""


class StopRequest:
    """Whether this process has been asked to stop, and why.

    Attributes:
        reason: the first signal's name or what else asked; None as long as nothing has.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._since = 0.0
        self._seconds: float | None = None  # to finish and save; None where there is nothing to

    def listen(self) -> None:
        """Take the signals in this process. Once, in the main thread."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in SIGNALS:
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._read, args=(reader,), daemon=True).start()

    @contextlib.contextmanager
    def finishing(self, seconds: float) -> Iterator[None]:
        """Let a request wait for what is inside of the block; outside, the process leaves at once.

        Args:
            seconds: from the request on; after them the process leaves without having saved.
        """
        self._seconds = seconds
        try:
            yield
        finally:
            self._seconds = None

    def ask(self, reason: str) -> None:
        """Ask this process to stop. From any thread."""
        if self._seconds is None:
            _leave()
        elif self.reason is None:
            self._since = time.monotonic()
            timer = threading.Timer(self._seconds, _leave)
            timer.daemon = True
            timer.start()
            self.reason = reason

    def _read(self, reader: int) -> None:
        while True:
            for number in os.read(reader, 64):
                if number in SIGNALS:
                    if self.reason is not None and time.monotonic() - self._since > SAME:
                        _leave()
                    self.ask(signal.Signals(number).name)


def _nothing(_number: int, _frame: object) -> None:
    """Do nothing; but only a signal that has a handler in Python is written to the file."""


def _leave() -> None:
    os._exit(StoppedError.exit_status)
