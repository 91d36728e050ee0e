"""Cuts and stages on paper, by hand; live engines are in tests/distributed/test_memory.py."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from gradopt_ds.experiments.common import models
from gradopt_ds.integration.parallel.on_paper import check_parallel
from gradopt_ds.integration.parallel.pipeline_on_paper import pipeline_stages
from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.integration.parallel.tensor_on_paper import tensor_cuts

V, H, F, LAYERS = 30, 24, 20, 4


def llama(kind: str = "llama", **more: Any) -> nn.Module:
    settings = {
        "vocab_size": V,
        "hidden_size": H,
        "intermediate_size": F,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        **more,
    }
    return models.on_meta(AutoConfig.for_model(kind, **settings))


def test_llama_in_three() -> None:
    """Two heads of keys: the third rank has no attention. The MLP and the head are cut evenly."""
    cuts = tensor_cuts(llama(attention_bias=True, mlp_bias=True), 3)
    layer = "model.layers.1."
    expected = {
        "self_attn.q_proj.weight": TensorCut((24, 24), 0, ((12, 12, 0),)),
        "self_attn.q_proj.bias": TensorCut((24,), 0, ((12, 12, 0),)),
        "self_attn.k_proj.weight": TensorCut((12, 24), 0, ((6, 6, 0),)),
        "self_attn.o_proj.weight": TensorCut((24, 24), 1, ((12, 12, 0),)),
        "self_attn.o_proj.bias": TensorCut((24,)),
        "mlp.gate_proj.weight": TensorCut((20, 24), 0, ((7, 7, 6),)),
        "mlp.down_proj.weight": TensorCut((24, 20), 1, ((7, 7, 6),)),
        "mlp.down_proj.bias": TensorCut((24,)),
        "input_layernorm.weight": TensorCut((24,)),
    }
    assert {name: cuts[layer + name] for name in expected} == expected
    assert cuts["model.embed_tokens.weight"] == TensorCut((V, H))
    assert cuts["lm_head.weight"] == TensorCut((V, H), 0, ((10, 10, 10),))


def test_one_rank_cuts_nothing() -> None:
    """Whatever the model."""
    assert {cut.axis for cut in tensor_cuts(nn.Linear(2, 2), 1).values()} == {None}


def test_a_tied_head_is_cut_with_its_embedding() -> None:
    """By the rows of the vocabulary; with a preset, which leaves the head out, both stay whole."""
    tied = llama(tie_word_embeddings=True)
    assert tensor_cuts(tied, 2)["model.embed_tokens.weight"] == TensorCut((V, H), 0, ((15, 15),))
    assert tensor_cuts(tied, 2, "llama")["model.embed_tokens.weight"] == TensorCut((V, H))


def test_what_autotp_refuses_is_refused() -> None:
    """Qwen2MoE without a preset; presets that do not exist; models without a plan."""
    experts = {"num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
    moe = llama("qwen2_moe", **experts)
    with pytest.raises(ValueError, match=r"AutoTP refuses a Qwen2Moe.*packed_colwise.*preset"):
        tensor_cuts(moe, 2)
    cuts = tensor_cuts(moe, 2, "qwen2")
    assert cuts["model.layers.0.mlp.experts.down_proj"].axis is None
    assert cuts["model.layers.0.self_attn.o_proj.weight"].axis == 1
    with pytest.raises(ValueError, match="no preset 'nonsense'"):
        tensor_cuts(moe, 2, "nonsense")
    with pytest.raises(ValueError, match="no plan for tensor parallelism of a Linear"):
        tensor_cuts(nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match="would cut nothing"):
        tensor_cuts(llama(), 2, "chatglm")


def test_stages_by_layers_and_by_parameters() -> None:
    """Embedding, four layers, norm, head: seven layers; a big vocabulary is a stage of its own."""
    model = llama(vocab_size=10_000)
    names = [name for name, _ in model.named_parameters()]
    uniform = pipeline_stages(model, 2, "uniform")
    assert [name for stage in uniform for name in stage] == names
    assert [stage[-1].split(".")[:3] for stage in uniform] == [
        ["model", "layers", "2"],
        ["lm_head", "weight"],
    ]
    first, middle, last = pipeline_stages(model, 3, "parameters")
    assert first == ["model.embed_tokens.weight"]
    assert last == ["lm_head.weight"]
    assert {name.split(".")[1] for name in middle} == {"layers", "norm"}
    assert pipeline_stages(model, 1, "parameters") == [names]
    # A rank of eight has an eighth of the head, but the whole embedding.
    cut = {name: 1 if name == "lm_head.weight" else 100 for name in names}
    assert len(pipeline_stages(model, 2, "parameters", cut)[1]) > len(uniform[1])


def test_tied_layers_are_on_both_stages() -> None:
    first, last = pipeline_stages(llama(tie_word_embeddings=True), 2, "uniform")
    assert first[0] == last[-1] == "model.embed_tokens.weight"


def test_models_that_make_no_stages() -> None:
    """Too few layers, or no list of them."""
    with pytest.raises(ValueError, match="pipeline 8: the model has 7 layers only"):
        pipeline_stages(llama(), 8, "uniform")
    with torch.device("meta"), pytest.raises(ValueError, match="no ModuleList"):
        pipeline_stages(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 2, "uniform")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 2, 1, 1), "tensor_parallel is refused at ZeRO stage 3"),
        ((2, 1, 2, 1), "no pipeline at ZeRO stage 2"),
        ((1, 2, 1, 2), "expert_parallel is refused beside"),
    ],
)
def test_sizes_that_no_engine_has(sizes: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_parallel(sizes[0], 8, *sizes[1:])
    check_parallel(1, 8, 2, 2, 1)
