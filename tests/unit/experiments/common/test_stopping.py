"""Signals, in real processes: the first lets a block end, a second and a late one do not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from gradopt_ds.experiments.common.stopping import SAME

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")
STOPPED, FINISHED = 75, 7
PROCESS = """
import sys, time
from gradopt_ds.experiments.common.stopping import StopRequest
stop = StopRequest()
stop.listen()
if {seconds} == 0:
    print("ready", flush=True)
    time.sleep(60)
with stop.finishing({seconds}):
    print("ready", flush=True)
    while stop.reason is None:
        time.sleep(0.01)
    print(stop.reason, flush=True)
    {work}
sys.exit(7)
"""
STUCK = "import select, threading; threading.Lock().acquire(); select.select([], [], [], 60)"
"""A wait in C, in which no handler runs that is written in Python: signals do not end it."""


def start(seconds: float, work: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROCESS.format(seconds=seconds, work=work)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def reason(process: "subprocess.Popen[str]", number: signal.Signals) -> str:
    process.send_signal(number)
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_is_in_hand_is_finished(number: signal.Signals) -> None:
    with start(60, "time.sleep(0.5)") as process:
        assert reason(process, number) == number.name
        process.send_signal(signal.SIGTERM)  # the same one, passed on by a launcher
        assert process.wait(10) == FINISHED


def test_a_second_signal_leaves_at_once() -> None:
    with start(60, STUCK) as process:
        reason(process, signal.SIGTERM)
        time.sleep(SAME + 0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == STOPPED


def test_the_time_to_save_is_bounded() -> None:
    with start(0.3, STUCK) as process:
        reason(process, signal.SIGUSR1)
        assert process.wait(5) == STOPPED


def test_with_nothing_to_save_it_leaves_at_once() -> None:
    with start(0, "") as process:
        process.send_signal(signal.SIGUSR1)
        assert process.wait(5) == STOPPED
