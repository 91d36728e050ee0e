"""Which matrices lie in one parameter: sizes, defaults, and what a user may say."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from gradopt_ds import SWAN, Muon, assign_rules, matrix_param_groups
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.optim.splits import blocks_of
from tests.distributed.model import TinyLM
from tests.distributed.moe_model import (
    HEADS_SPLIT,
    build_moe,
)

COMMON = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen2_moe": {
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8, "layer_types": ["full_attention"] * 2},
}


def mixture(kind: str) -> nn.Module:
    """A small model of ``transformers`` with stacked experts."""
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **COMMON, **MIXTURES[kind])
    )
    return model


@given(
    count=st.none() | st.integers(1, 4),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    columns=st.integers(1, 5),
)
def test_blocks_are_the_rows_of_every_matrix(
    count: int | None, sizes: list[int], columns: int
) -> None:
    """In order, without gap or overlap; a number stands for that many equal sizes."""
    shape = (sum(sizes), columns) if count is None else (count, sum(sizes), columns)
    x = torch.arange(np.prod(shape)).view(shape)
    expected = [part for matrix in x.view(-1, *shape[-2:]) for part in matrix.split(sizes)]
    blocks = blocks_of(shape, sizes)
    actual = [x.flatten()[b.where].view(b.rows, b.columns) for b in blocks]
    assert all(map(torch.equal, actual, expected)) and len(actual) == len(expected)
    if len(set(sizes)) == 1:
        assert blocks_of(shape, len(sizes)) == blocks


@pytest.mark.parametrize("shape", [(6,), (2, 2, 6, 3)])
def test_only_matrices_and_stacks_of_them_are_split(shape: tuple[int, ...]) -> None:
    """Anything else has no rows to speak of."""
    with pytest.raises(ValueError, match="neither matrix nor stack"):
        blocks_of(shape)


@pytest.mark.parametrize("split", [4, 0, [2, 3], [6, 0], [7, -1], []])
def test_parts_must_add_up(split: int | list[int]) -> None:
    """Six rows are not four equal parts, and not 2 + 3."""
    with pytest.raises(ValueError, match="6 rows cannot be split into"):
        blocks_of((3, 6, 2), split)


@pytest.mark.parametrize("kind", ["qwen2_moe", "mixtral"])
def test_the_blocks_of_stacked_experts_are_what_the_model_multiplies_with(kind: str) -> None:
    """Each expert's output from its own three blocks alone, against the model's own forward."""
    model = mixture(kind)
    blocks = {assignment.name: assignment.blocks for assignment in assign_rules(model).values()}
    prefix = "model.layers.1.mlp.experts"
    experts = model.get_submodule(prefix)

    def matrices(name: str) -> list[Tensor]:
        flat = getattr(experts, name).detach().flatten()
        own = blocks[f"{prefix}.{name}"]
        return [flat[b.where].view(b.rows, b.columns) for b in own]

    x = torch.randn(7, COMMON["hidden_size"])
    gate_up, down = matrices("gate_up_proj"), matrices("down_proj")
    assert (len(gate_up), len(down)) == (8, 4)
    for expert in range(4):
        gate, up = gate_up[2 * expert : 2 * expert + 2]
        expected = (nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down[expert].T
        chosen = torch.full((7, 1), expert)
        torch.testing.assert_close(experts(x, chosen, torch.ones(7, 1)), expected)


def test_transposed_and_interleaved_experts_follow_the_word_of_the_user() -> None:
    """GPT-OSS keeps [inputs, outputs], gate and up in turn; `split` makes one matrix of the two."""
    model = mixture("gpt_oss")
    excluded = {a.rule for a in assign_rules(model, exclude=["*.experts.*_proj"]).values()}
    assert excluded == {"matrix", "aux"}
    declared = assign_rules(model, split={"*.experts.*_proj": 1})
    counts = {len(a.blocks) for a in declared.values() if "experts" in a.name and a.blocks}
    assert counts == {4}


@pytest.mark.parametrize("name", ["w1", "down_proj", "gate_up_proj"])
def test_unknown_stacks_are_refused_until_declared(name: str) -> None:
    """A 3-D parameter without a word from its module, whatever it is called."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter(name, nn.Parameter(torch.zeros(4, 6, 8)))

    with pytest.raises(ValueError, match=rf"'{name}' has shape .4, 6, 8.*`split`.*`exclude`"):
        assign_rules(Experts())
    with pytest.raises(ValueError, match=f"'{name}' has shape"):
        assign_rules(Experts(), include=[name])
    (declared,) = assign_rules(Experts(), split={name: [2, 4]}).values()
    assert declared.rule == "matrix" and [b.rows for b in declared.blocks] == [2, 4] * 4


@pytest.mark.parametrize("kind", ["qwen2_moe", "mixtral"])
def test_routers_and_gates_are_auxiliary(kind: str) -> None:
    """By default; `include` makes one a matrix."""
    model = mixture(kind)
    rules = {a.name: a for a in assign_rules(model).values()}
    gates = [name for name in rules if ".mlp.gate." in name or "shared_expert_gate" in name]
    assert len(gates) == {"qwen2_moe": 4, "mixtral": 2}[kind]
    assert all(rules[gate].reason == "router or gate of experts" for gate in gates)
    included = {a.name: a for a in assign_rules(model, include=["*.mlp.gate.weight"]).values()}
    assert included["model.layers.0.mlp.gate.weight"].rule == "matrix"


class SeparateExperts(nn.Module):
    """A mixture with a linear layer for the router and linear layers for each expert."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3, bias=False)
        self.experts = nn.ModuleList(
            nn.ModuleDict({"gate": nn.Linear(6, 4, bias=False), "down": nn.Linear(4, 6)})
            for _ in range(3)
        )


def test_experts_as_separate_layers_are_matrices() -> None:
    """As they always were; their router is not, though it is a linear layer too."""
    rules = {a.name: a for a in assign_rules(SeparateExperts()).values()}
    assert rules["gate.weight"].reason == "router or gate of experts"
    matrices = {name for name, assignment in rules.items() if assignment.rule == "matrix"}
    assert matrices == {f"experts.{i}.{n}.weight" for i in range(3) for n in ("gate", "down")}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"split": {"*.qkv.weight": 3}}, "split pattern '\\*.qkv.weight' matches no parameter"),
        (
            {"split": {"embed.weight": 1}},
            "'embed.weight', which the auxiliary AdamW updates .embedding",
        ),
        ({"split": {"*.up.bias": 1}}, "there is no matrix to split"),
        ({"split": {"*.up.weight": 2}}, "split of 'blocks.0.up.weight': 23 rows cannot be split"),
        ({"split": {"*.up.weight": 1, "blocks.0.*.weight": 1}}, "two patterns of split match"),
        (
            {"split": {"*.up.weight": 1}, "exclude": ["blocks.0.up.*"]},
            "'blocks.0.up.weight', which the auxiliary AdamW .* .named in exclude",
        ),
    ],
)
def test_bad_splits_are_refused(patterns: dict[str, Any], message: str) -> None:
    """By pattern and by name."""
    with pytest.raises(ValueError, match=message):
        assign_rules(TinyLM(), **patterns)


@pytest.mark.parametrize("value", ["8", 0, 2.0, [], [12, -1], {"heads": 8}, True])
def test_bad_splits_in_the_json_are_refused(value: Any) -> None:
    """Nothing is converted in silence."""
    model = TinyLM()
    params = {"split": {"*.square.weight": value}}
    with pytest.raises(ValueError, match="SWAN: split"):
        build_optimizer("SWAN", params, model, model.parameters())


def test_a_split_in_the_json_reaches_the_optimizer() -> None:
    """Also through GradPower's base."""
    for name, params in (
        ("PolarGrad", {"split": {"*.square.weight": [4, 8]}}),
        ("GradPower", {"base": {"type": "SWAN", "params": {"split": {"*.square.weight": [4, 8]}}}}),
    ):
        model = TinyLM()
        optimizer = build_optimizer(name, params, model, model.parameters())
        blocks = getattr(optimizer, "base", optimizer).blocks  # type: ignore[attr-defined]
        assert [b.rows for b in blocks[model.blocks[0].square.weight]] == [4, 8]
        assert len(blocks[model.blocks[0].up.weight]) == 1


def test_groups_serve_a_second_optimizer() -> None:
    """What is known about their matrices is not used up."""
    groups = matrix_param_groups(build_moe(), split=HEADS_SPLIT)
    first, second = SWAN(groups), Muon(groups)
    assert first.blocks == second.blocks and max(map(len, first.blocks.values())) == 10


def test_a_stack_that_deepspeed_has_marked_is_one_matrix_per_expert() -> None:
    """AutoEP keeps gate, up and down apart, and says so with ``is_expert_group``."""

    class GroupedExperts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1 = nn.Parameter(torch.zeros(4, 6, 8))
            self.w1.is_expert_group = True

    (assignment,) = assign_rules(GroupedExperts()).values()
    assert assignment.rule == "matrix"
    assert [(b.rows, b.columns) for b in assignment.blocks] == [(6, 8)] * 4
