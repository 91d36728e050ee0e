"""Optimizer objects that another one would replace, on real engines; and what is no such thing."""

import torch

from gradopt_ds import SWAN, GradPower, matrix_param_groups
from tests.distributed.engines import POLAR, assert_raises, config, start
from tests.distributed.harness import distributed
from tests.distributed.model import build_model

ADAMW = config("AdamW", {"lr": 0.1, "torch_adam": True})


@distributed(2)
def test_an_object_that_nothing_uses_is_refused() -> None:
    """Whatever the JSON names, and whatever object stands in its place."""
    model = build_model()
    mine = SWAN(matrix_param_groups(model))
    for settings in (config(), ADAMW):
        assert_raises(ValueError, "a SWAN was made", lambda: start(settings, model=model))
    other = torch.optim.AdamW(model.parameters(), lr=0.1)
    assert_raises(
        ValueError, "with AdamW instead", lambda: start(config(None), model=model, optimizer=other)
    )
    del mine
    start(config(None), model=model, optimizer=other)


@distributed(2)
def test_engines_one_after_the_other_over_one_model() -> None:
    """Objects of earlier engines, alive, and those of starts that failed do not count."""
    model, failures, kept = build_model(), [], []
    # It fails when the optimizer has been made, and the traceback keeps that alive.
    for params in ({"exchange_bucket_size": 0}, {"exchange_strategy": {"*.sideways.*": "gram"}}):
        try:
            start(config(params={**POLAR, **params}), model=model)
        except ValueError as error:
            failures.append(error)
    assert len(failures) == 2
    # Stage 0 leaves the model's parameters in the groups.
    mine = GradPower(SWAN(matrix_param_groups(model)))
    kept.append(start(config(None, stage=0), model=model, optimizer=mine))
    kept.append(start(config(stage=0), model=model))
    kept.append(start(ADAMW, model=model))
    factory = lambda params: SWAN(matrix_param_groups(model, params))  # noqa: E731
    kept.append(start(config(None, stage=0), model=model, optimizer=factory))
    kept.append(start(config("SWAN", {}), model=model))
