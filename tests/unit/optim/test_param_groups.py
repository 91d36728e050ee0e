"""Which parameters are matrices, and what becomes of a user's groups."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from gradopt_ds import assign_rules, matrix_param_groups
from tests.distributed.model import MATRICES, TinyLM


def llama(*, tied: bool = False) -> LlamaForCausalLM:
    """A two-layer LLaMA."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=tied,
        )
    )


def matrices(model: nn.Module, **patterns: list[str]) -> set[str]:
    """Names of the parameters that get the matrix rule."""
    return {a.name for a in assign_rules(model, **patterns).values() if a.rule == "matrix"}


LLAMA_MATRICES = {
    f"model.layers.{i}.{name}.weight"
    for i in range(2)
    for name in (
        *(f"self_attn.{p}_proj" for p in "qkvo"),
        *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
    )
}


@pytest.mark.parametrize("tied", [False, True])
def test_llama(tied: bool) -> None:
    """Block weights are matrices; embeddings, head and norms are not, tied or untied."""
    model = llama(tied=tied)
    assert matrices(model) == LLAMA_MATRICES
    embedding = assign_rules(model)[model.model.embed_tokens.weight]
    assert embedding.reason == ("embedding tied to the output head" if tied else "embedding")


def test_plain_module() -> None:
    """Without transformers' `get_output_embeddings`, the head is known by its shape."""
    model = TinyLM()
    assert matrices(model) == MATRICES
    assert "same shape as an embedding" in assign_rules(model)[model.lm_head.weight].reason


def test_a_projection_is_no_head_for_its_shape() -> None:
    """As many positions as channels: every layer's projection looks like the table of positions."""
    blocks = [nn.ModuleDict({"projection": nn.Linear(16, 16)}) for _ in range(2)]
    model = nn.ModuleDict({"positions": nn.Embedding(16, 16), "blocks": nn.ModuleList(blocks)})
    assert matrices(model) == {f"blocks.{i}.projection.weight" for i in range(2)}


def test_a_head_in_a_sequence_is_known_by_its_shape() -> None:
    """There all layers have numbers for names."""
    model = nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 8), nn.Linear(8, 40))
    assert matrices(model) == {"1.weight"}


def test_reasons_of_the_rest() -> None:
    """Vectors, convolutions, bare parameters and named heads go to the auxiliary AdamW."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.gate = nn.Linear(8, 1, bias=False)
            self.router = nn.Parameter(torch.zeros(4, 8))
            self.hidden = nn.Linear(8, 8, bias=False)
            self.classifier = nn.Linear(8, 3)
            self.layers = nn.ModuleList([nn.ModuleDict({"output": nn.Linear(8, 8, bias=False)})])
            self.frozen = nn.Linear(8, 8, bias=False).requires_grad_(False)

    reasons = {a.name: a.reason for a in assign_rules(Net()).values()}
    assert matrices(Net()) == {"hidden.weight", "layers.0.output.weight"}
    assert "frozen.weight" not in reasons
    assert reasons["conv.weight"] == "convolution kernel"
    assert "vector" in reasons["gate.weight"]
    assert "include" in reasons["router"]
    assert "outside the blocks" in reasons["classifier.weight"]


def test_include_and_exclude() -> None:
    """Globs on names override the defaults both ways."""
    chosen = matrices(TinyLM(), include=["lm_head.weight"], exclude=["blocks.0.*"])
    assert chosen == {n for n in MATRICES if n.startswith("blocks.1.")} | {"lm_head.weight"}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"include": ["blocks.7.*"]}, "include pattern 'blocks.7.*' matches no parameter.*embed"),
        ({"exclude": ["lm_haed*"]}, "exclude pattern 'lm_haed\\*' matches no parameter"),
        ({"include": ["*.bias"]}, "only 2-D parameters"),
        ({"include": ["lm_head*"], "exclude": ["lm_*"]}, "both include and exclude match lm_head"),
    ],
)
def test_bad_patterns_are_refused(patterns: dict[str, list[str]], message: str) -> None:
    """A pattern that does nothing is a mistake, not a wish."""
    with pytest.raises(ValueError, match=message):
        assign_rules(TinyLM(), **patterns)


def test_groups_split_and_keep_their_settings() -> None:
    """Per-group lr, weight decay, name and foreign keys survive in both parts."""
    model = TinyLM()
    decayed = [p for n, p in model.named_parameters() if n.startswith("blocks.0.")]
    rest = [p for n, p in model.named_parameters() if not n.startswith("blocks.0.")]
    groups = matrix_param_groups(
        model,
        [
            {"params": decayed, "lr": 0.5, "weight_decay": 0.3, "name": "first", "moe": False},
            {"params": iter(rest), "name": "rest"},
        ],
    )
    assert [(g["name"], g["rule"]) for g in groups] == [
        ("first", "matrix"),
        ("first", "aux"),
        ("rest", "matrix"),
        ("rest", "aux"),
    ]
    assert groups[0]["lr"] == groups[1]["matrix_lr"] == 0.5
    assert all(g["weight_decay"] == 0.3 and not g["moe"] for g in groups[:2])
    assert "lr" not in groups[2]
    split = [id(p) for g in groups for p in g["params"]]
    assert sorted(split) == sorted(id(p) for p in model.parameters())


def test_foreign_parameters_are_refused() -> None:
    """A parameter without a name has no rule."""
    with pytest.raises(ValueError, match="not parameters of TinyLM"):
        matrix_param_groups(TinyLM(), [nn.Parameter(torch.zeros(3, 3))])
