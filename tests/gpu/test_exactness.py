"""On a GPU an engine's update equals the float64 reference, as on the CPU."""

import pytest

from tests.distributed.cases import Case
from tests.distributed.harness import distributed, record
from tests.distributed.test_exactness import worst_errors
from tests.gpu.cases import ONE_RANK, REHEARSED, TWO_RANKS
from tests.gpu.places import NCCL, SHARED


def check(case: Case) -> None:
    worst = worst_errors(case)
    record(**worst)
    assert worst["matrices"] <= case.tolerance
    assert worst["others"] <= case.tolerance


@pytest.mark.gpu
@distributed(1, cases=ONE_RANK, place=NCCL)
def test_one_rank(case: Case) -> None:
    check(case)


@pytest.mark.gpu
@distributed(2, cases=TWO_RANKS, place=SHARED)
def test_two_ranks_on_one_device(case: Case) -> None:
    check(case)


@distributed(1, cases=REHEARSED)
def test_rehearsal_on_the_cpu(case: Case) -> None:
    """The same bodies: what fails here would fail there."""
    check(case)
