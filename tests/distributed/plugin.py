"""Lets pytest run the bodies that ``harness.distributed`` declares, each on all its ranks.

``tests/conftest.py`` hands these hooks to pytest, for every folder of tests.
"""

import pytest

from tests.distributed.harness import Job
from tests.distributed.schedule import Schedule

SCHEDULE = pytest.StashKey[Schedule]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--errors", action="store_true", help="print the numbers that tests recorded, worst first"
    )


def job_of(item: pytest.Item) -> Job | None:
    """The job that decides about an item; None if it is no distributed test."""
    if not isinstance(item, pytest.Function) or not hasattr(item.function, "declaration"):
        return None
    return Job(item.function, item.callspec.params["ranks"], item.callspec.params["case"])


@pytest.hookimpl(trylast=True)  # what -k and -m leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    jobs = {item: job for item in items if (job := job_of(item))}
    items.sort(key=lambda item: (item in jobs, *(jobs[item].order if item in jobs else ())))
    config.stash[SCHEDULE] = Schedule(
        job for item, job in jobs.items() if not item.get_closest_marker("skip")
    )


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    job = job_of(pyfuncitem)
    if job is None:
        return None
    verdict = pyfuncitem.config.stash[SCHEDULE].verdict(job)
    pyfuncitem.user_properties += verdict.values.items()
    if verdict.failure:
        pytest.fail(verdict.failure, pytrace=False)
    return True


def pytest_unconfigure(config: pytest.Config) -> None:
    if SCHEDULE in config.stash:
        config.stash[SCHEDULE].close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not terminalreporter.config.getoption("errors", default=False):
        return
    terminalreporter.section("numbers recorded by tests, worst first")
    reports = (r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, []))
    recorded = [(dict(r.user_properties), r.nodeid) for r in reports if r.user_properties]
    for values, name in sorted(recorded, key=lambda entry: -max(entry[0].values())):
        numbers = ", ".join(f"{key} {value:.1e}" for key, value in values.items())
        terminalreporter.write_line(f"{numbers}: {name}")
