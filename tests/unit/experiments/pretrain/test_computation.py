"""Recomputed layers and other attention: loss and gradients of the plain model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from deepspeed.runtime.activation_checkpointing import checkpointing
from torch import Tensor

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.json_file import load
from gradopt_ds.experiments.pretrain.computation import set_checkpointing
from gradopt_ds.experiments.pretrain.settings import RunSettings
from tests.conftest import ROOT

Make = Callable[..., RunSettings]


def results(settings: RunSettings) -> tuple[Tensor, list[Tensor], int]:
    """Loss, gradients and how often a layer was computed, of one batch."""
    shape = models.model_config(settings.model, 128, 16, settings.attention)
    model = models.build(shape, seed=1)
    set_checkpointing(model, settings, load(settings.deepspeed_config))
    calls = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    ids = torch.arange(64).view(4, 16)
    outputs = model(input_ids=ids, labels=ids)
    outputs.loss.backward()
    return outputs.loss.detach(), [param.grad for param in model.parameters()], len(calls)


@pytest.fixture(params=["tiny", "qwen2moe_tiny"])
def model(request: pytest.FixtureRequest) -> Path:
    return ROOT / f"configs/models/{request.param}.json"


def test_a_recomputed_layer_gives_the_same_bits(make: Make, model: Path) -> None:
    """With torch's function; DeepSpeed's needs ranks: see tests/e2e/test_pretrain.py."""
    loss, gradients, once = results(make(model=model))
    other_loss, others, twice = results(make(model=model, checkpointing="transformers"))
    assert (once, twice) == (1, 2)
    assert torch.equal(loss, other_loss)
    for gradient, other in zip(gradients, others, strict=True):
        assert torch.equal(gradient, other)


def test_eager_attention_is_sdpa_to_rounding(make: Make, model: Path) -> None:
    loss, gradients, _ = results(make(model=model, attention="eager"))
    other_loss, others, _ = results(make(model=model, attention="sdpa"))
    torch.testing.assert_close(loss, other_loss)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_attention_that_is_not_installed_is_named(make: Make) -> None:
    with pytest.raises(PretrainError, match="with --attention flash_attention_2: ImportError"):
        results(make(attention="flash_attention_2"))


def test_a_block_that_would_have_no_effect_is_refused(make: Make) -> None:
    settings = make()
    settings.deepspeed_config.write_text('{"activation_checkpointing": {"profile": true}}')
    with pytest.raises(PretrainError, match="--checkpointing deepspeed only .it is none"):
        results(settings)
    assert checkpointing.PROFILE_TIME is False
