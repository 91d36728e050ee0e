"""The estimator against live engines: stages 0 to 3, precisions, 1, 2 and 3 ranks."""

from typing import Any

import pytest

from tests.distributed.launch import launch
from tests.distributed.memory_worker import CASES

SMALL_CHANGE = 64
"""Bytes of counters and flags that ZeRO keeps in tensors."""
OTHER = 1024
"""Bytes of tensors that nobody owns: rotary tables, the tokens, the loss."""


@pytest.fixture(scope="module", params=[1, 2, 3], ids=["1 rank", "2 ranks", "3 ranks"])
def results(request: pytest.FixtureRequest) -> list[tuple[Any, dict[str, Any]]]:
    """Case and result, of every rank."""
    ranks = launch("tests.distributed.memory_worker", request.param)["ranks"]
    cases = CASES[request.param]
    return [pair for rank in ranks for pair in zip(cases, rank, strict=True)]


def test_weights_masters_and_state_to_the_byte(results: list[tuple[Any, dict[str, Any]]]) -> None:
    for case, one in results:
        wanted, found = one["wanted"], one["found"]["rest"]
        assert found["weights"] == wanted["weights"], case
        assert found["masters"] == wanted["masters"], case
        assert found["state"] == wanted["state_matrix"] + wanted["state_aux"], case
        if one["by_rule"]:
            assert one["by_rule"]["matrix"] == wanted["state_matrix"], case
            assert one["by_rule"]["aux"] == wanted["state_aux"], case


def test_gradients_and_buffers(results: list[tuple[Any, dict[str, Any]]]) -> None:
    """Gradients after the backward pass and within the step, buffers between steps."""
    for case, one in results:
        wanted, found = one["wanted"], one["found"]
        assert found["backward"]["gradients"] == pytest.approx(wanted["gradients"], rel=0.02), case
        assert found["step"]["gradients"] == pytest.approx(wanted["step_gradients"], rel=0.02), case
        assert 0 <= found["rest"]["buffers"] - wanted["buffers"] <= SMALL_CHANGE, case


def test_no_tensor_is_forgotten(results: list[tuple[Any, dict[str, Any]]]) -> None:
    """Everything that the garbage collector sees after a step has an owner."""
    for case, one in results:
        assert one["found"]["rest"]["other"] <= OTHER, case


def test_the_workspace_is_bounded(results: list[tuple[Any, dict[str, Any]]]) -> None:
    """What a step allocates and holds at a time, state excepted."""
    for case, one in results:
        assert 0 < one["workspace"] <= one["wanted"]["workspace"] + SMALL_CHANGE, case


def test_stateless_matrices_have_no_state(results: list[tuple[Any, dict[str, Any]]]) -> None:
    seen = 0
    for (_, optimizer, _), one in results:
        if optimizer in ("SWAN", "SinkGD"):
            assert one["by_rule"]["matrix"] == 0
            seen += 1
    assert seen
