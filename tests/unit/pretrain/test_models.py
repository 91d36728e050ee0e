from pathlib import Path

import pytest
import torch

from gradopt_ds.pretrain.errors import PretrainError
from gradopt_ds.pretrain.models import build, model_config, parameter_count

CONFIGS = Path(__file__).parents[3] / "configs/models"


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


def test_the_tokenizer_decides_the_vocabulary() -> None:
    config = model_config(CONFIGS / "tiny.json", vocab_size=320)
    assert parameter_count(config) == llama(128, 352, 4, 320)


def test_the_seed_decides_the_weights() -> None:
    config = model_config(CONFIGS / "tiny.json", vocab_size=320)
    first, again, other = (
        torch.cat([one.flatten() for one in build(config, seed).parameters()]) for seed in (1, 1, 2)
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
    ):
        path.write_text(text)
        with pytest.raises(PretrainError, match=complaint):
            model_config(path)
