"""Which models count as not initialised; ``tests/distributed`` has them under zero.Init."""

import logging

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from gradopt_ds.integration.initial_weights import default_embeddings, warn_of_default_weights

CONFIG = LlamaConfig(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
)


def llama(embedding: float) -> LlamaForCausalLM:
    """A model whose embedding has this standard deviation."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    nn.init.normal_(model.model.embed_tokens.weight, std=embedding)
    return model


@pytest.mark.parametrize("std", [1e-3, 0.02, 0.1, 0.5, 3.0])
def test_trained_embeddings_are_not_suspected(std: float) -> None:
    """A factor of 5 or 50 from initializer_range may be the training's doing."""
    assert default_embeddings(llama(std)) == []


def test_the_default_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """By name, with what was intended and where to read on."""
    with caplog.at_level(logging.WARNING, "gradopt_ds"):
        warn_of_default_weights(llama(1.0))
    (record,) = caplog.records
    for part in ("model.embed_tokens.weight", "0.02", "zero.Init", "docs/zero.md"):
        assert part in record.getMessage()


def test_models_that_say_nothing_are_not_judged() -> None:
    """Torch's default is what a model of plain torch means."""
    assert default_embeddings(nn.Sequential(nn.Embedding(300, 32))) == []
