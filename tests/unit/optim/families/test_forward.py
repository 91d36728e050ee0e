"""What the table says of fused weights, against what the models of transformers compute.

Where two weights multiply one another, one times c and the other over c change nothing; so do
queries and keys of an attention, its values and its output, up and down of an MLP. Any other
choice of rows changes the output. Where nothing passes without a part, it must be all of the part.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradopt_ds import assign_rules
from gradopt_ds.matrices import Block
from tests.unit.optim.families.models import VOCABULARY, build

Views = dict[str, list[Tensor]]
"""Name of a parameter → its matrices, as views ``[groups, size, inputs]``."""


def prepared(family: str) -> tuple[nn.Module, Views]:
    """A model in float64 with random weights and without biases, and its matrices."""
    torch.manual_seed(0)
    model = build(family, "cpu").double().eval()
    for name, param in model.named_parameters():
        if name.endswith("bias") or name.endswith("mixer.D") or name.endswith("mamba.D"):
            nn.init.zeros_(param)
        elif param.dim() > 1 and not name.endswith("A_log"):
            nn.init.normal_(param, std=0.3)
    assigned = assign_rules(model).items()
    return model, {a.name: [v for b in a.blocks for v in views(p, b)] for p, a in assigned}


def views(param: Tensor, block: Block) -> list[Tensor]:
    """The matrices of a block, to be written to."""
    stored = param.detach().view(-1)[block.where].view(block.rows, block.columns)
    return block.arrangement.views(stored) if block.arrangement else [stored[None]]


def output(model: nn.Module) -> Tensor:
    """Logits of a few tokens."""
    tokens = torch.arange(14).view(2, 7) * 5 % (VOCABULARY - 8) + 5
    with torch.no_grad():
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def named(all_views: Views, ending: str) -> list[list[Tensor]]:
    """The matrices of the weights that are called so, layer by layer."""
    found = [own for name, own in all_views.items() if name.endswith(ending) and own]
    assert found, ending
    return found


CASES = [
    ("Phi-3", "qkv_proj.weight", "self_attn.o_proj.weight"),
    ("GPT-NeoX", "query_key_value.weight", "attention.dense.weight"),
    ("GPT-2", "c_attn.weight", "attn.c_proj.weight"),
    ("GPT-BigCode", "c_attn.weight", "attn.c_proj.weight"),
    ("GPT-BigCode, all heads", "c_attn.weight", "attn.c_proj.weight"),
    ("CodeGen", "qkv_proj.weight", "attn.out_proj.weight"),
    ("Bloom", "query_key_value.weight", "self_attention.dense.weight"),
    ("Falcon, new", "query_key_value.weight", "self_attention.dense.weight"),
    ("Falcon 7B", "query_key_value.weight", "self_attention.dense.weight"),
    ("Falcon RW", "query_key_value.weight", "self_attention.dense.weight"),
    ("MPT", "Wqkv.weight", "attn.out_proj.weight"),
    ("DBRX", "Wqkv.weight", "attn.out_proj.weight"),
    ("ModernBERT", "Wqkv.weight", "attn.Wo.weight"),
    ("DeBERTa", "in_proj.weight", "attention.output.dense.weight"),
]


@pytest.mark.parametrize(("family", "fused", "out"), CASES)
def test_queries_keys_and_values_are_told_apart(family: str, fused: str, out: str) -> None:
    """Queries times 2 and keys over 2; values times 3 and the output projection over 3."""
    model, all_views = prepared(family)
    before = output(model)
    order = (0, 2, 1) if family == "CodeGen" else (0, 1, 2)
    for own in named(all_views, fused):
        queries, keys, values = (own[i] for i in order)
        queries.mul_(2)
        changed = output(model)
        keys.div_(2)
        values.mul_(3)
    for (own,) in named(all_views, out):
        own.div_(3)
    torch.testing.assert_close(output(model), before, rtol=1e-6, atol=1e-8)
    assert (changed - before).abs().max() > 1e-3


GATED = [
    ("Phi-3", "gate_up_proj.weight", "down_proj.weight"),
    ("GLM-4", "gate_up_proj.weight", "down_proj.weight"),
    ("GLM", "gate_up_proj.weight", "down_proj.weight"),
    ("Granite MoE, shared", "input_linear.weight", "output_linear.weight"),
]


@pytest.mark.parametrize(("family", "fused", "down"), GATED)
def test_gate_and_up_are_told_apart(family: str, fused: str, down: str) -> None:
    """Up times 3 and down over 3."""
    model, all_views = prepared(family)
    before = output(model)
    for _, up in named(all_views, fused):
        up.mul_(3)
    for (own,) in named(all_views, down):
        own.div_(3)
    torch.testing.assert_close(output(model), before, rtol=1e-6, atol=1e-8)
    for gate, _ in named(all_views, fused):
        gate.mul_(3)
    assert (output(model) - before).abs().max() > 1e-3


NEEDED = [
    ("MiniMax", "qkv_proj.weight", "self_attn.out_proj.weight", (0, 1, 2)),
    ("Mamba", "in_proj.weight", "out_proj.weight", (0, 1)),
    ("Mamba", "x_proj.weight", "out_proj.weight", (1, 2)),
    ("Mamba 2", "in_proj.weight", "out_proj.weight", (0, 1, 2, 3)),
    ("Jamba", "mamba.in_proj.weight", "mamba.out_proj.weight", (0, 1)),
    ("Jamba", "x_proj.weight", "mamba.out_proj.weight", (1, 2)),
    ("LFM2", "in_proj.weight", "conv.out_proj.weight", (0, 1, 2)),
    ("Qwen3-Next", "in_proj_qkvz.weight", "linear_attn.out_proj.weight", (0, 1, 2, 3)),
]


@pytest.mark.parametrize(("family", "fused", "out", "parts"), NEEDED)
def test_without_one_part_nothing_passes(
    family: str, fused: str, out: str, parts: tuple[int, ...]
) -> None:
    """Parts that multiply one another, of one size or not: without one the layer gives zeros."""
    model, all_views = prepared(family)
    layers = {name.split(fused)[0].rsplit(".", 2)[0] for name in all_views if name.endswith(fused)}
    own_out = [v for n, v in all_views.items() if n.endswith(out) and any(x in n for x in layers)]
    saved = [[view.clone() for view in own] for own in own_out]
    before = output(model)
    for (view,) in own_out:
        view.zero_()
    without = output(model)
    for own, copies in zip(own_out, saved, strict=True):
        own[0].copy_(copies[0])
    assert (without - before).abs().max() > 1e-3
    for part in parts:
        copies = [own[part].clone() for own in named(all_views, fused)]
        for own in named(all_views, fused):
            own[part].zero_()
        torch.testing.assert_close(output(model), without, rtol=1e-5, atol=1e-6)
        for own, copy in zip(named(all_views, fused), copies, strict=True):
            own[part].copy_(copy)
            own[part][:, 1:].zero_()
        assert (output(model) - without).abs().max() > 1e-6  # it takes all rows of the part
        for own, copy in zip(named(all_views, fused), copies, strict=True):
            own[part].copy_(copy)


@pytest.mark.parametrize("family", ["DeepSeek V2", "DeepSeek V3"])
def test_parts_of_latent_attention(family: str) -> None:
    """Values times 3 and the output over 3; the compressed part is normed, the rotary key not."""
    model, all_views = prepared(family)
    before = output(model)
    for _, values in named(all_views, "kv_b_proj.weight"):
        values.mul_(3)
    for (out,) in named(all_views, "self_attn.o_proj.weight"):
        out.div_(3)
    torch.testing.assert_close(output(model), before, rtol=1e-6, atol=1e-8)
    for compressed, _ in named(all_views, "kv_a_proj_with_mqa.weight"):
        compressed.mul_(3)
    torch.testing.assert_close(output(model), before, rtol=1e-4, atol=1e-5)
    for _, rotary in named(all_views, "kv_a_proj_with_mqa.weight"):
        rotary.mul_(3)
    assert (output(model) - before).abs().max() > 1e-3


def test_gated_queries() -> None:
    """Queries of Qwen3-Next are normed head by head; their gate is not."""
    model, all_views = prepared("Qwen3-Next")
    before = output(model)
    for queries, _ in named(all_views, "self_attn.q_proj.weight"):
        queries.mul_(2)
    torch.testing.assert_close(output(model), before, rtol=1e-4, atol=1e-4)
    for _, gate in named(all_views, "self_attn.q_proj.weight"):
        gate.mul_(2)
    assert (output(model) - before).abs().max() > 1e-3


def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """An expert of Llama 4 and DBRX."""
    return (nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def gated_gpt_oss(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """An expert of GPT-OSS: both are clamped, one is added to up."""
    left, right = (x @ gate.T).clamp(max=7), (x @ up.T).clamp(-7, 7)
    return ((right + 1) * left * torch.sigmoid(left * 1.702)) @ down.T


@pytest.mark.parametrize(
    ("family", "expert"), [("GPT-OSS", gated_gpt_oss), ("Llama 4", gated), ("DBRX", gated)]
)
def test_experts_compute_with_their_own_matrices(
    family: str, expert: Callable[..., Tensor]
) -> None:
    """Each expert from its own gate, up and down, as ``[outputs, inputs]``, by hand."""
    model, all_views = prepared(family)
    x = torch.randn(5, 32, dtype=torch.double)
    names = {name: module for name, module in model.named_modules() if name.endswith("experts")}
    prefix, experts = list(names.items())[-1]
    own = {
        name.removeprefix(f"{prefix}."): [matrix.flatten(0, 1) for matrix in matrices]
        for name, matrices in all_views.items()
        if name.startswith(f"{prefix}.")
    }
    if family == "DBRX":
        gate_up = [m for pair in zip(own["mlp.w1"], own["mlp.v1"], strict=True) for m in pair]
        down = own["mlp.w2"]
    else:
        gate_up, down = own["gate_up_proj"], own["down_proj"]
    assert len(gate_up) == 8 and len(down) == 4
    by_hand = [expert(x, *gate_up[2 * i : 2 * i + 2], down[i]) for i in range(4)]
    with torch.no_grad():
        if family == "Llama 4":
            torch.testing.assert_close(experts(x.repeat(4, 1)), torch.cat(by_hand))
            return
        for i in range(4):
            chosen, weights = torch.full((5, 1), i), torch.ones(5, 1, dtype=torch.double)
            torch.testing.assert_close(experts(x, chosen, weights).view(5, 32), by_hand[i])


def test_conv1d_of_gpt2_is_a_transposed_linear_layer() -> None:
    """``x @ W.T`` with the matrix that the rule sees."""
    model, all_views = prepared("GPT-2")
    layer = model.get_submodule("transformer.h.1.mlp.c_fc")
    (matrix,) = all_views["transformer.h.1.mlp.c_fc.weight"]
    x = torch.randn(5, 32, dtype=torch.double)
    assert matrix.shape == (1, 128, 32)
    torch.testing.assert_close(layer(x), x @ matrix[0].T)
