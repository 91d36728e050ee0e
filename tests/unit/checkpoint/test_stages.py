"""Records of pipeline stages and of the whole model."""

from dataclasses import replace

import pytest

from gradopt_ds.checkpoint import Group, Record, groups_of, joined, seen_from

MATRIX = Group("matrix", {"1.up": (3, 2)}, {"lr": 0.1})
AUX = Group("aux", {"tied.embed": (5, 2)}, {"lr": 0.1})
FIRST = Record("SWAN", 1, 2, (AUX,), pipeline_stages=2, elsewhere=("2.up", "3.norm"))
LAST = Record(
    "SWAN",
    1,
    2,
    (Group("matrix", {"2.up": (3, 2)}), Group("aux", {"tied.embed": (5, 2), "3.norm": (2,)})),
    pipeline_stages=2,
)
WHOLE = joined([FIRST, LAST])


def test_groups_of_one_rule_become_one() -> None:
    """In the order in which the stages name them; a tied parameter once, as the first says."""
    assert [group.rule for group in WHOLE.groups] == ["aux", "matrix"]
    assert WHOLE.groups[0].parameters == {"tied.embed": (5, 2), "3.norm": (2,)}
    assert WHOLE.groups[0].settings == {"lr": 0.1}
    assert WHOLE.elsewhere == ()


def test_one_stage_keeps_its_groups() -> None:
    """Several of one rule too."""
    twice = replace(FIRST, groups=(AUX, AUX), elsewhere=())
    assert joined([twice]) == twice
    with pytest.raises(ValueError, match="several parameter groups of the rule 'aux'"):
        joined([twice, LAST])


def test_a_stage_sees_its_own_part() -> None:
    """Its groups come first, in its order, without what others have."""
    assert groups_of(WHOLE, LAST) == [1, 0]
    seen = seen_from(WHOLE, LAST)
    assert [group.rule for group in seen.groups] == ["matrix", "aux"]
    assert [dict(group.parameters) for group in seen.groups] == [
        {"2.up": (3, 2)},
        {"tied.embed": (5, 2), "3.norm": (2,)},
    ]


def test_what_no_stage_has_is_seen_by_all() -> None:
    """So that a model with fewer layers does not load."""
    more = joined([FIRST, LAST, replace(LAST, groups=(MATRIX,))])
    names = [name for group in seen_from(more, FIRST).groups for name in group.parameters]
    assert names == ["tied.embed", "1.up"]


def test_a_rule_that_was_not_saved_is_refused() -> None:
    """There is nothing to go on with."""
    with pytest.raises(ValueError, match="no parameter group of the rule 'matrix'"):
        groups_of(joined([FIRST]), LAST)
