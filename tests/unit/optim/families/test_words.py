"""What a user may say of fused weights, and what is refused or no head."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention

from gradopt_ds import SWAN, assign_rules, matrix_param_groups
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.report import summarize_rules
from tests.unit.optim.families.models import build


def shapes(family: str, ending: str, split: Any) -> list[tuple[int, int]]:
    """Outputs and inputs of the matrices of the first weight that is called so."""
    assigned = assign_rules(build(family), split={f"*.{ending}": split}).values()
    own = next(a for a in assigned if a.name.endswith(ending))
    return [shape for block in own.blocks for shape in block.shapes]


@pytest.mark.parametrize(
    ("family", "ending", "heads"),
    [
        ("LLaMA", "q_proj.weight", [(8, 32)] * 4),
        ("LLaMA", "k_proj.weight", [(8, 32)] * 2),
        ("BERT", "value.weight", [(8, 32)] * 4),
        ("T5", "SelfAttention.q.weight", [(8, 32)] * 4),
        ("Phi-3", "qkv_proj.weight", [(8, 32)] * 8),
        ("GPT-2", "c_attn.weight", [(8, 32)] * 12),
        ("GPT-NeoX", "query_key_value.weight", [(8, 32)] * 12),
        ("Falcon, new", "query_key_value.weight", [(8, 32)] * 8),
        ("CodeGen", "qkv_proj.weight", [(4, 32)] * 24),
        ("DeepSeek V3", "q_b_proj.weight", [(12, 24)] * 4),
        ("DeepSeek V3", "kv_b_proj.weight", [(8, 16), (6, 16)] * 4),
    ],
)
def test_heads_by_one_word(family: str, ending: str, heads: list[tuple[int, int]]) -> None:
    """Each head is a matrix of its own, written down by hand."""
    assert shapes(family, ending, "heads") == heads


@pytest.mark.parametrize(
    ("family", "ending"),
    [("LLaMA", "o_proj.weight"), ("LLaMA", "up_proj.weight"), ("Phi-3", "gate_up_proj.weight")],
)
def test_heads_that_are_not_known_are_refused(family: str, ending: str) -> None:
    """Rows of an output projection, or of an MLP, are not those of heads."""
    with pytest.raises(ValueError, match=f"split of '.*{ending}'.*does not say that its rows"):
        shapes(family, ending, "heads")


def test_split_overrides_what_is_known() -> None:
    """Outputs are divided: columns of GPT-2's weights, rows of GPT-NeoX's."""
    assert shapes("GPT-NeoX", "query_key_value.weight", 1) == [(96, 32)]
    assert shapes("GPT-2", "c_attn.weight", [64, 32]) == [(64, 32), (32, 32)]
    assert shapes("GPT-2", "c_fc.weight", 2) == [(64, 32)] * 2
    with pytest.raises(ValueError, match="96 columns cannot be split into 5 equal parts"):
        shapes("GPT-2", "c_attn.weight", 5)


def test_the_json_knows_the_word() -> None:
    """And no other."""
    model = build("LLaMA", "cpu")
    params = {"split": {"*.q_proj.weight": "heads"}}
    optimizer = build_optimizer("SWAN", params, model, model.parameters())
    assert isinstance(optimizer, SWAN)
    assert max(map(len, optimizer.blocks.values())) == 4
    with pytest.raises(ValueError, match="heads"):
        params = {"split": {"*.q_proj.weight": "head"}}
        build_optimizer("SWAN", params, model, model.parameters())


class Own(nn.Module):
    """A layer of somebody's own, called like those of the libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"qkv": nn.Linear(8, 24)})])


def test_fused_weights_of_unknown_classes_are_refused() -> None:
    """By name, until `split` or `exclude` names them."""
    with pytest.raises(ValueError, match=r"'layers.0.qkv.weight' of shape .*`split`.*`exclude`"):
        assign_rules(Own())
    with pytest.raises(ValueError, match="'layers.0.qkv.weight' of shape"):
        assign_rules(Own(), include=["*.qkv.weight"])
    (thirds, _) = assign_rules(Own(), split={"*.qkv.weight": 3}).values()
    assert [block.rows for block in thirds.blocks] == [8, 8, 8]
    (left, _) = assign_rules(Own(), exclude=["*.qkv.weight"]).values()
    assert left.rule == "aux"


class OtherForward(GPTNeoXAttention):
    """May do anything with its fused weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use it in another order."""
        return x


def test_numbers_that_do_not_add_up_and_forwards_of_ones_own_are_refused() -> None:
    """What is known of a class holds for its own code and its own shapes."""
    model = build("GPT-NeoX")
    model.gpt_neox.layers[1].attention.head_size = 7  # type: ignore[union-attr,index]
    with pytest.raises(ValueError, match="'gpt_neox.layers.1.attention.query_key_value.weight'"):
        assign_rules(model)
    model = build("GPT-NeoX")
    model.gpt_neox.layers[0].attention.__class__ = OtherForward  # type: ignore[union-attr,index]
    with pytest.raises(ValueError, match="'gpt_neox.layers.0.attention.query_key_value.weight'"):
        assign_rules(model)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("llama", {"intermediate_size": 96}),
        ("bloom", {"n_layer": 1, "n_head": 4}),
        ("gpt_neox", {"intermediate_size": 96}),
    ],
)
def test_a_projection_with_the_shape_of_an_embedding_is_no_head(
    kind: str, sizes: dict[str, int]
) -> None:
    """One layer, so that no shape repeats; the vocabulary is three times the model's width."""
    config = AutoConfig.for_model(
        kind, vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    by_shape = [a for a in assign_rules(model).values() if a.shape == (96, 32)]
    heads = {a.name for a in by_shape if a.rule == "aux"}
    assert all("layers." not in name and ".h." not in name for name in heads)
    assert any(a.rule == "matrix" for a in by_shape)


def test_a_projection_of_a_model_that_names_no_head_is_none_either() -> None:
    """In a list of layers with a name; a bare sequence of layers may end in its head."""
    layers = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(8, 24, bias=False)})])
    model = nn.ModuleDict({"embed": nn.Embedding(24, 8), "layers": layers})
    assert {a.name: a.rule for a in assign_rules(model).values()}["layers.0.up.weight"] == "matrix"
    sequence = nn.Sequential(nn.Embedding(24, 8), nn.Linear(8, 24, bias=False))
    assert {a.rule for a in assign_rules(sequence).values()} == {"aux"}


def test_the_table_of_rules_counts_the_matrices() -> None:
    """Queries, keys and values of two layers are six."""
    model = build("GPT-NeoX", "cpu")
    table = summarize_rules(model, SWAN(matrix_param_groups(model)))
    (row,) = (row for row in table if "head by head" in row.reason)
    assert (row.tensors, row.matrices) == (2, 6)
