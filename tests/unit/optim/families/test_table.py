"""The families of ``transformers``: rule, matrices and reason of each kind of weight, frozen."""

import pytest

from tests.unit.optim.families.freeze import PAGE, frozen, page
from tests.unit.optim.families.models import FAMILIES, build
from tests.unit.optim.families.table import rows


@pytest.mark.parametrize("family", FAMILIES)
def test_rules_of_a_family(family: str) -> None:
    """As reviewed; the vocabulary is three times as large as the model, like a fused projection.

    In any order: releases of transformers register the weights of a layer in different ones.
    """
    assert sorted(rows(build(family)), key=_text) == sorted(frozen()[family], key=_text)


def _text(row: dict[str, str]) -> str:
    return str(sorted(row.items()))


def test_nothing_else_is_frozen() -> None:
    """About forty families, each with a model."""
    assert list(frozen()) == list(FAMILIES) and len(FAMILIES) >= 40


def test_the_page_shows_the_frozen_table() -> None:
    """``docs/models.md`` is made from it."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, frozen()) == text
