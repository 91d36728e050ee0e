"""What N ranks compute equals what the float64 reference computes from the same gradients.

``python -m tests.distributed.test_exactness 3`` prints the errors on 3 ranks, worst first;
``… 3 "stage 3"`` only those of cases with that in their name.
"""

import sys
from typing import Any

import pytest

from tests.distributed.cases import CASES, Case
from tests.distributed.conditional_cases import UNUSED_LAYERS
from tests.distributed.launch import launch


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def errors(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The worst relative error of every case, from one launch per world size."""
    return launch("tests.distributed.exactness_worker", request.param)


@pytest.mark.parametrize("case", [*CASES, *UNUSED_LAYERS], ids=lambda case: case.name)
def test_step_equals_the_reference(errors: dict[str, Any], case: Case) -> None:
    """Every optimizer, stage, precision, accumulation, clipping and layout option."""
    assert errors[case.name]["matrices"] <= case.tolerance
    assert errors[case.name]["others"] <= case.tolerance


if __name__ == "__main__":
    found = launch("tests.distributed.exactness_worker", int(sys.argv[1]), *sys.argv[2:])
    for name, error in sorted(found.items(), key=lambda item: -max(item[1].values())):
        print(f"matrices {error['matrices']:.1e}, others {error['others']:.1e}: {name}")
