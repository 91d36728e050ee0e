import pytest

from gradopt_ds.experiments.common import failure
from gradopt_ds.experiments.common.errors import DivergedError, PretrainError


def on_rank(monkeypatch: pytest.MonkeyPatch, rank: int, local: int, ranks: int = 16) -> None:
    for name, value in (("RANK", rank), ("LOCAL_RANK", local), ("WORLD_SIZE", ranks)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(failure.time, "sleep", lambda seconds: None)


def test_rank_0_speaks_at_once_and_the_others_after_one_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = []
    for rank, local in ((0, 0), (1, 1), (7, 7), (8, 0), (9, 1)):
        on_rank(monkeypatch, rank, local)
        waits.append(failure.delay(PretrainError("x")))
    assert waits[0] == 0.0
    assert waits == [failure.STEP * place for place in (0, 1, 7, 1, 1)]
    # What follows from another rank's end comes after whatever that rank says.
    on_rank(monkeypatch, 0, 0)
    assert failure.delay(RuntimeError("x")) > failure.STEP
    refused = PretrainError("cannot load")
    refused.__cause__ = RuntimeError("connection closed by peer")
    assert failure.delay(refused) > failure.STEP
    refused.__cause__ = NotImplementedError("stage 9")
    assert failure.delay(refused) == 0.0
    on_rank(monkeypatch, 0, 0, ranks=1)
    assert failure.delay(RuntimeError("x")) == 0.0


def test_a_mistake_is_one_line_with_its_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_rank(monkeypatch, 3, 3)
    assert failure.report(DivergedError("the loss is nan")) == 3
    assert capsys.readouterr().err == "error on rank 3: the loss is nan\n"
    on_rank(monkeypatch, 0, 0)
    assert failure.report(PretrainError("no")) == 2
    assert capsys.readouterr().err == "error: no\n"


def test_anything_else_is_a_traceback_that_ends_with_the_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_rank(monkeypatch, 1, 1)
    try:
        raise KeyError("key")
    except KeyError as error:
        assert failure.report(error) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "error on rank 1: KeyError: 'key'"


def test_ctrl_c_needs_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure.report(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""
