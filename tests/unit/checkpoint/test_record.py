"""The record survives its way through a file, and a strange one is refused."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradopt_ds.checkpoint import (
    FORMAT,
    KEY,
    Fragment,
    Group,
    Record,
    Slice,
    check_content,
    check_layout,
    from_state,
    to_state,
)

RECORD = Record(
    optimizer="PolarGrad",
    stage=2,
    ranks=2,
    groups=(Group("matrix", {"w": (3, 4)}), Group("aux", {"b": (3,), "e": (2, 2)})),
    slices=(
        Slice(0, 6, ("w",), (Fragment("w", 0, 0, 6),)),
        Slice(1, 4, ("b", "e"), (Fragment("b", 0, 0, 3), Fragment("e", 0, 3, 1))),
    ),
)


def _changed(**groups: Group) -> Record:
    return replace(
        RECORD,
        groups=tuple(groups.get(f"g{i}", group) for i, group in enumerate(RECORD.groups)),
    )


def test_round_trip() -> None:
    """Plain data, so that no class has to stay where it is."""
    plain = to_state(RECORD)
    assert plain["format"] == FORMAT
    assert b"gradopt_ds.checkpoint" not in pickle.dumps(plain)
    assert from_state({"state": {}, KEY: plain}) == RECORD


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "does not say which parameters it holds"),
        ({KEY: {**to_state(RECORD), "format": FORMAT + 1}}, f"has format {FORMAT + 1}"),
        ({KEY: {"optimizer": "SWAN"}}, "has format None"),
        ({KEY: {**to_state(RECORD), "ranks": "two"}}, "is damaged"),
        ({KEY: {"format": FORMAT}}, "is damaged"),
    ],
)
def test_strange_records_are_refused(state: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_state(state)


def test_the_record_is_plain_enough_for_weights_only(tmp_path: Path) -> None:
    settings = {"lr": 0.1, "scale": "nuclear", "oracle": {"type": "svd", "dtype": None}}
    record = replace(RECORD, groups=(Group("matrix", {"w": (3, 4)}, settings),))
    torch.save({KEY: to_state(record)}, tmp_path / "state.pt")
    assert from_state(torch.load(tmp_path / "state.pt", weights_only=True)) == record


def test_the_first_format_is_read() -> None:
    """Written by hand, as version 0.1.0 wrote it: groups without settings."""
    slices = [{"group": 0, "size": 6, "parameters": ["w"], "fragments": [
        {"name": "w", "start": 0, "offset": 0, "length": 6}]}]  # fmt: skip
    groups = [{"rule": "matrix", "parameters": {"w": [3, 4]}}]
    old = {"format": 1, "optimizer": "PolarGrad", "stage": 2, "ranks": 2,
           "groups": groups, "slices": slices}  # fmt: skip
    expected = replace(RECORD, groups=(Group("matrix", {"w": (3, 4)}),), slices=RECORD.slices[:1])
    assert from_state({KEY: old}) == expected


def test_the_same_is_accepted() -> None:
    check_content(RECORD, RECORD)
    check_layout(RECORD, RECORD)


@pytest.mark.parametrize(
    ("current", "message"),
    [
        (replace(RECORD, optimizer="SWAN"), "saved by PolarGrad, not by SWAN"),
        (
            replace(RECORD, groups=RECORD.groups[:1]),
            "2 parameter groups then, 1 now; 'b' is no par",
        ),
        (
            _changed(g0=Group("aux", {"w": (3, 4)})),
            r"'w' was matrix of shape \(3, 4\) in group 0 a",
        ),
        (_changed(g0=Group("matrix", {"w": (4, 3)})), r"and is matrix of shape \(4, 3\)"),
        (_changed(g0=Group("matrix", {"w": (3, 4), "v": (1, 1)})), "'v' was no parameter of the"),
    ],
)
def test_other_content_is_named(current: Record, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_content(RECORD, current)


def test_long_lists_are_cut() -> None:
    many = _changed(g0=Group("matrix", {f"w{i}": (1, 1) for i in range(20)}))
    with pytest.raises(ValueError, match=r"'w3' .*; and 16 more\. Set"):
        check_content(RECORD, many)


def test_other_slices_are_named() -> None:
    moved = replace(RECORD.slices[0], fragments=(Fragment("w", 6, 0, 6),))
    for current, message in (
        (replace(RECORD, ranks=3), "saved by 2 ranks, and there are 3 now: convert it"),
        (replace(RECORD, slices=(moved, RECORD.slices[1])), "cut differently .ZeRO stage 2 then"),
        (replace(RECORD, stage=0, slices=()), "cannot be loaded at stage 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check_layout(RECORD, current)


def test_whole_parameters_load_on_any_ranks() -> None:
    whole = replace(RECORD, stage=0, slices=())
    check_layout(whole, replace(whole, ranks=5))
