from pathlib import Path

import pytest
import torch

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.models import (
    active_parameter_count,
    build,
    model_config,
    on_meta,
    parameter_count,
)

CONFIGS = Path(__file__).parents[4] / "configs/models"


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny", 1.9),
        ("60m", 58.1),
        ("130m", 134.1),
        ("350m", 368.0),
        ("1.3b", 1339.1),
        ("2b", 2055.3),
        ("7b", 6738.4),
    ],
)
def test_parameter_counts(name: str, millions: float) -> None:
    count = parameter_count(model_config(CONFIGS / f"{name}.json"))
    assert round(count / 1e6, 1) == millions


def llama(hidden: int, inner: int, layers: int, vocabulary: int) -> int:
    block = 4 * hidden**2 + 3 * hidden * inner + 2 * hidden
    return 2 * vocabulary * hidden + layers * block + hidden


def test_the_count_is_the_closed_form() -> None:
    config = model_config(CONFIGS / "2b.json")
    assert parameter_count(config) == llama(2560, 6848, 24, 32000) == 2_055_334_400


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("tiny", 2_301_056, 1_711_232),
        ("1b", 1_013_941_248, 384_795_648),
        ("2b", 1_952_538_880, 590_045_440),
    ],
)
def test_total_and_active_parameters_of_the_mixtures(name: str, total: int, active: int) -> None:
    """As documented; and by hand: attention with biases, experts, shared expert, router, norms."""
    config = model_config(CONFIGS / f"qwen2moe_{name}.json")
    assert (parameter_count(config), active_parameter_count(on_meta(config))) == (total, active)
    h, shared = config.hidden_size, config.shared_expert_intermediate_size
    one_expert = 3 * h * config.moe_intermediate_size
    rest = 4 * h * h + 3 * h + 3 * h * shared + h + config.num_experts * h + 2 * h
    outside = 2 * config.vocab_size * h + h
    for count, experts in ((total, config.num_experts), (active, config.num_experts_per_tok)):
        assert count == outside + config.num_hidden_layers * (rest + experts * one_expert)


def test_every_parameter_of_a_dense_model_is_active() -> None:
    config = model_config(CONFIGS / "2b.json")
    assert active_parameter_count(on_meta(config)) == parameter_count(config)


def test_a_router_loss_that_would_not_be_computed_is_an_error(tmp_path: Path) -> None:
    """transformers computes it only on request."""
    path = tmp_path / "model.json"
    path.write_text('{"model_type": "qwen2_moe"}')
    with pytest.raises(
        PretrainError, match=r'"output_router_logits": true.*"router_aux_loss_coef"'
    ):
        model_config(path)
    path.write_text('{"model_type": "qwen2_moe", "router_aux_loss_coef": 0.0}')
    assert model_config(path).router_aux_loss_coef == 0


def test_the_tokenizer_decides_the_vocabulary() -> None:
    config = model_config(CONFIGS / "tiny.json", vocab_size=320)
    assert parameter_count(config) == llama(128, 352, 4, 320)


def test_the_seed_decides_the_weights() -> None:
    config = model_config(CONFIGS / "tiny.json", vocab_size=320)
    first, again, other = (
        torch.cat([param.flatten() for param in build(config, seed).parameters()])
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(PretrainError, match="max_position_embeddings"):
        model_config(CONFIGS / "tiny.json", sequence_length=4096)
    path = tmp_path / "model.json"
    for text, complaint in (
        ('{"hidden_size": 8}', "model_type"),
        ('{"model_type": "nonsense"}', "nonsense"),
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"model_type": "llama", "num_hidden_layer": 2}', "did you mean 'num_hidden_layers'"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "hidden_size"),
        ('{"model_type": "llama", "hidden_size": -32}', "makes no model: .*negative"),
        ('{"model_type": "llama", "hidden_act": "silly"}', "makes no model: .*silly"),
        ('{"model_type": "vit"}', "makes no model"),
    ):
        path.write_text(text)
        with pytest.raises(PretrainError, match=complaint):
            model_config(path)
