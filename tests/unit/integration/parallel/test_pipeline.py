"""What pipeline stages say of their parameters, joined into one account of the model."""

import pytest
from torch import nn

from gradopt_ds.integration.parallel.pipeline import joined
from gradopt_ds.integration.report import RuleSummary, joined_summaries
from gradopt_ds.optim.facts import ParameterFacts
from gradopt_ds.optim.param_groups import assign_rules

EMBEDDING = ParameterFacts("0.weight", (37, 12), frozenset({"embedding"}), in_block=False)


def test_a_head_is_known_by_an_embedding_elsewhere() -> None:
    """Alone it looks like any linear layer."""
    stage = nn.ModuleDict({"3": nn.Linear(12, 37, bias=False)})
    (alone,) = assign_rules(stage).values()
    (known,) = assign_rules(stage, elsewhere=[EMBEDDING]).values()
    assert (alone.rule, known.rule) == ("matrix", "aux")
    assert known.reason == "output head (same shape as an embedding)"


def test_a_mistake_elsewhere_is_found() -> None:
    """A stage refuses what another one has, so that all end alike."""
    stage = nn.ModuleDict({"3": nn.Linear(12, 7, bias=False)})
    bias = ParameterFacts("1.bias", (12,), frozenset({"linear"}), in_block=True)
    with pytest.raises(ValueError, match=r"include names '1.bias' of shape \(12,\)"):
        assign_rules(stage, include=["1.bias"], elsewhere=[EMBEDDING, bias])


def test_a_tied_parameter_belongs_to_the_modules_of_all_stages() -> None:
    """An embedding on one stage and a linear layer on another: tied to the head."""
    head = ParameterFacts("0.weight", (37, 12), frozenset({"linear"}), in_block=False)
    (fact,) = joined([EMBEDDING, head])
    assert fact.owners == {"embedding", "linear"}


def test_copies_of_different_shape_are_refused() -> None:
    """DeepSpeed would add up gradients that do not fit."""
    other = ParameterFacts("0.weight", (36, 12), frozenset({"embedding"}), in_block=False)
    with pytest.raises(ValueError, match="must be alike"):
        joined([EMBEDDING, other])


def test_rows_of_one_rule_and_reason_are_added_up() -> None:
    """The first stage's parameter is the example."""
    rows = [
        RuleSummary("SWAN", "why", "1.up", 2, 2, 30),
        RuleSummary("SWAN", "why", "5.up", 1, 3, 4),
    ]
    assert joined_summaries([rows[:1], rows[1:]]) == [RuleSummary("SWAN", "why", "1.up", 3, 5, 34)]
