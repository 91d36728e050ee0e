"""The table of rules: what it counts, and how often it is shown."""

import subprocess
import sys

import torch
from torch import nn

from gradopt_ds import SWAN, GradPower, matrix_param_groups
from gradopt_ds.integration.report import summarize_rules
from tests.distributed.model import MATRICES, build_model


def test_reasons_are_those_of_the_assignments() -> None:
    """Of include and exclude the one that names the parameter; nothing is guessed."""
    model = build_model()
    first, *others = sorted(MATRICES)
    groups = matrix_param_groups(model, include=["lm_head.weight"], exclude=[first])
    rows = {(row.rule, row.reason): row for row in summarize_rules(model, SWAN(groups))}
    assert rows["SWAN", "named in include"].example == "lm_head.weight"
    assert rows["AdamW (auxiliary)", "named in exclude"].example == first
    hidden = rows["SWAN", "weight of a hidden linear layer"]
    assert hidden.tensors == hidden.matrices == len(MATRICES) - 1
    assert hidden.elements == sum(model.get_parameter(name).numel() for name in others)


def test_groups_made_by_hand_say_so() -> None:
    """Not "named in include, exclude or split"."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    optimizer = SWAN(
        [
            {"params": [model[0].weight, model[1].weight], "rule": "matrix"},
            {"params": [model[0].bias, model[1].bias], "rule": "aux"},
        ]
    )
    assert {(row.rule, row.reason, row.tensors) for row in summarize_rules(model, optimizer)} == {
        ("SWAN", "in a parameter group made by hand", 2),
        ("AdamW (auxiliary)", "in a parameter group made by hand", 2),
    }


def test_an_elementwise_base() -> None:
    model = nn.Linear(3, 4)
    optimizer = GradPower(torch.optim.SGD(model.parameters(), lr=0.1))
    (row,) = summarize_rules(model, optimizer)
    assert (row.rule, row.reason, row.elements) == ("SGD", "elementwise: every parameter", 16)


def test_a_message_is_shown_once() -> None:
    """Without logging set up, with ``basicConfig`` before, and with it after the import."""
    for before, after in (("", ""), (BASIC, ""), ("", BASIC)):
        script = f"{before}\nfrom gradopt_ds.integration.log import log_on_rank_0\n{after}\n"
        done = subprocess.run(
            [sys.executable, "-c", f"{script}log_on_rank_0('the table')"],
            capture_output=True,
            text=True,
        )
        assert done.stderr.count("the table") == 1, (before, after, done.stderr)


BASIC = "import logging; logging.basicConfig(level=logging.INFO)"
