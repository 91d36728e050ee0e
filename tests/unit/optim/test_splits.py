"""Which matrices lie in one parameter: sizes, defaults, what a user may say, and the step."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from gradopt_ds import SWAN, Muon, PolarGrad, SinkGD, assign_rules, matrix_param_groups
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.matrices import RowShards
from gradopt_ds.optim.splits import blocks_of
from tests.distributed.model import SAMPLES, TinyLM
from tests.distributed.moe_model import (
    HEADS_SPLIT,
    LAYER,
    MATRICES,
    MATRICES_WITH_HEADS,
    VOCABULARY,
    TinyMoe,
    build_moe,
)
from tests.reference import Reference, Rule, StackedReference

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
    found = [x.flatten()[b.where].view(b.rows, b.columns) for b in blocks]
    assert all(map(torch.equal, found, expected)) and len(found) == len(expected)
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
    blocks = {one.name: one.blocks for one in assign_rules(model).values()}
    prefix = "model.layers.1.mlp.experts"
    experts = model.get_submodule(prefix)

    def matrices(name: str) -> list[Tensor]:
        flat = getattr(experts, name).detach().flatten()
        found = blocks[f"{prefix}.{name}"]
        return [flat[b.where].view(b.rows, b.columns) for b in found]

    x = torch.randn(7, COMMON["hidden_size"])
    gate_up, down = matrices("gate_up_proj"), matrices("down_proj")
    assert (len(gate_up), len(down)) == (8, 4)
    for expert in range(4):
        gate, up = gate_up[2 * expert : 2 * expert + 2]
        expected = (nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down[expert].T
        chosen = torch.full((7, 1), expert)
        torch.testing.assert_close(experts(x, chosen, torch.ones(7, 1)), expected)


def test_transposed_and_interleaved_experts_are_not_guessed() -> None:
    """GPT-OSS keeps [inputs, outputs], gate and up in turn: an error, or the user's word."""
    model = mixture("gpt_oss")
    with pytest.raises(ValueError, match=r"'model.layers.0.mlp.experts.gate_up_proj' has shape"):
        assign_rules(model)
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
    matrices = {name for name, one in rules.items() if one.rule == "matrix"}
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


RULES: dict[str, tuple[Any, dict[str, Any], Rule]] = {
    "SWAN": (SWAN, {"lr": 0.2, "alpha": 0.1, "oracle": "svd"}, Rule("SWAN", lr=0.2, alpha=0.1)),
    "SinkGD": (SinkGD, {"lr": 0.2, "alpha": 0.1}, Rule("SinkGD", lr=0.2, alpha=0.1)),
    "PolarGrad": (
        PolarGrad,
        {"lr": 0.1, "momentum": 0.8, "oracle": "svd"},
        Rule("PolarGrad", lr=0.1, momentum=0.8),
    ),
    "PolarGrad polar first": (
        PolarGrad,
        {"lr": 0.1, "momentum": 0.8, "oracle": "svd", "momentum_order": "polar_first"},
        Rule("PolarGrad", lr=0.1, momentum=0.8, momentum_order="polar_first"),
    ),
    "Muon": (
        Muon,
        {"lr": 0.1, "momentum": 0.8, "oracle": "svd", "scale": "spectral"},
        Rule("PolarGrad", lr=0.1, momentum=0.8, scale="spectral", nesterov=True),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_every_expert_gets_the_rule_of_its_own(name: str) -> None:
    """Two steps on Qwen2MoE against the float64 reference, matrix by matrix."""
    build, settings, rule = RULES[name]
    model = build_moe()
    optimizer = build(matrix_param_groups(model, split=HEADS_SPLIT), **settings)
    named = dict(model.named_parameters())
    references = {
        name: StackedReference(rule, named[name].detach().double().numpy(), parts)
        for name, parts in MATRICES_WITH_HEADS.items()
    }
    for step in range(2):
        backward(model, step)
        for name, reference in references.items():
            gradient = named[name].grad
            assert gradient is not None
            reference.weight = named[name].detach().double().numpy().copy()
            reference.step(gradient.double().numpy())
        before = {name: named[name].detach().double().numpy().copy() for name in references}
        optimizer.step()
        for name, reference in references.items():
            moved = np.linalg.norm(reference.weight - before[name])
            error = np.linalg.norm(named[name].detach().double().numpy() - reference.weight)
            assert error < 1e-4 * moved, (name, step)


def test_matrices_of_one_shape_share_a_call() -> None:
    """Ten gates and ups, and whatever else is 8 x 16, in one call of the rule."""
    model = build_moe()
    optimizer = Muon(matrix_param_groups(model), oracle="svd")
    rule, calls = optimizer._matrix_rule, []

    def counting(batch: Tensor, across: RowShards, group: Any) -> tuple[Tensor, Tensor]:
        calls.append(tuple(batch.shape))
        return rule(batch, across, group)

    optimizer._matrix_rule = counting  # type: ignore[method-assign]
    backward(model, 0)
    optimizer.step()
    # k, v: 8 x 16; q, o: 16 x 16; shared expert: 12 x 16 twice and 16 x 12; experts' down: 16 x 8.
    assert sorted(calls) == [(1, 16, 12), (2, 12, 16), (2, 16, 16), (5, 16, 8), (12, 8, 16)]


def backward(model: TinyMoe, step: int) -> None:
    """Fresh gradients."""
    generator = torch.Generator().manual_seed(step)
    model.zero_grad()
    model(torch.randint(VOCABULARY, (SAMPLES, 13), generator=generator)).backward()


def test_plain_reference_of_a_whole_matrix_is_the_old_one() -> None:
    """The stacked reference of one matrix is the reference that everything else is held against."""
    rule, rng = Rule("SWAN", lr=0.2, alpha=0.1), np.random.default_rng(0)
    weight, gradient = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    stacked = StackedReference(rule, weight, MATRICES[f"{LAYER}.self_attn.q_proj.weight"])
    single = Reference(rule, weight)
    stacked.step(gradient)
    single.step(gradient)
    np.testing.assert_array_equal(stacked.weight, single.weight)
