"""Optimizer objects in whose place another would train; and what is none of them."""

import copy
import gc
import pickle
from typing import Any

import pytest
from torch.optim import SGD, AdamW, Optimizer

from gradopt_ds import SWAN, GradPower, Muon, PolarGrad, matrix_param_groups
from gradopt_ds.integration.dropped import refuse_conversion, refuse_replacing
from gradopt_ds.optim.unattached import forget, in_use_when_made, unattached_over
from tests.distributed.model import build_model


def adamw(model: Any) -> AdamW:
    """What a framework makes in the place of the object."""
    return AdamW(model.parameters(), lr=1e-3)


@pytest.mark.parametrize(
    ("kind", "name"), [(SWAN, "SWAN"), (PolarGrad, "PolarGrad"), (Muon, "MatrixMuon")]
)
def test_a_dropped_object_is_named(kind: type[Optimizer], name: str) -> None:
    model = build_model()
    mine = kind(matrix_param_groups(model))
    with pytest.raises(ValueError, match=f'"type": "{name}".*trainer_optimizer') as caught:
        refuse_replacing(adamw(model))
    assert f"a {kind.__name__} was made" in str(caught.value) and "AdamW instead" in str(
        caught.value
    )
    del mine, caught
    refuse_replacing(adamw(model))


def test_a_dropped_power_is_named_once_and_for_all() -> None:
    """The base is a part of it, whatever the base is."""
    for make in (lambda m: SWAN(matrix_param_groups(m)), lambda m: SGD(m.parameters())):
        model = build_model()
        mine = GradPower(make(model))
        assert unattached_over(model.parameters()) == [mine]
        with pytest.raises(ValueError, match="a GradPower was made"):
            refuse_replacing(adamw(model))
        forget(mine)
        refuse_replacing(adamw(model))


def test_another_of_ours_may_not_replace_it_either() -> None:
    model = build_model()
    mine = SWAN(matrix_param_groups(model))
    with pytest.raises(ValueError, match="with PolarGrad instead"):
        refuse_replacing(PolarGrad(matrix_param_groups(model)))
    refuse_replacing(mine)


def test_garbage_is_nobodys() -> None:
    """A cycle of references keeps it until the collector comes."""
    model = build_model()
    mine = SWAN(matrix_param_groups(model))
    mine.itself = mine
    gc.disable()
    try:
        del mine
        refuse_replacing(adamw(model))
    finally:
        gc.enable()


def test_what_does_not_count() -> None:
    """Other parameters, copies, pickles, what has trained, what an engine made or uses."""
    model, other = build_model(), build_model()
    elsewhere = SWAN(matrix_param_groups(other))
    copied_model, copied = copy.deepcopy((model, elsewhere))
    read = pickle.loads(pickle.dumps(elsewhere))
    assert copied.param_groups and read.param_groups
    for params in (model, copied_model):
        refuse_replacing(adamw(params))
    assert not unattached_over(p for group in read.param_groups for p in group["params"])

    trained = PolarGrad(matrix_param_groups(model))
    for param in model.parameters():
        param.grad = param.detach().clone()
    trained.step()
    refuse_replacing(adamw(model))

    model, kept = build_model(), []
    with pytest.raises(RuntimeError), in_use_when_made():
        kept.append(SWAN(matrix_param_groups(model)))
        raise RuntimeError("the engine failed")
    refuse_replacing(adamw(model))
    kept.append(SWAN(matrix_param_groups(model)))
    with pytest.raises(ValueError, match="a SWAN was made"):
        refuse_replacing(adamw(model))


def test_groups_that_were_converted() -> None:
    """As Accelerate does it: somebody else's class over our groups."""
    model = build_model()
    for mine, name in (
        (SWAN(matrix_param_groups(model)), "SWAN"),
        (GradPower(SGD(model.parameters(), lr=0.1)), "GradPower"),
    ):
        with pytest.raises(ValueError, match=f"AdamW was made .* of a {name}.*force_ds_cpu"):
            refuse_conversion(AdamW(mine.param_groups))
    for groups in (
        matrix_param_groups(model),
        [{"params": list(model.parameters()), "algorithm": "muon", "power": 2}],
    ):
        refuse_conversion(AdamW(groups))
