"""The estimator against counts by hand, and what it refuses."""

import time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig

from gradopt_ds.experiments.common import host_memory, models
from gradopt_ds.experiments.memory_report.largest import largest, shape
from gradopt_ds.memory.deepspeed_json import read_setup
from gradopt_ds.memory.estimate import estimate
from gradopt_ds.memory.optimizers import BLOCKS, build
from gradopt_ds.memory.setup import Setup
from gradopt_ds.memory.zero import Group
from tests.conftest import ROOT

V, H, F, LAYERS, KEY = 96, 16, 24, 3, 8
"""Vocabulary, hidden, intermediate, layers, width of keys and values."""
MATRICES = LAYERS * (2 * H * H + 2 * H * KEY + 3 * H * F)
NORMS = LAYERS * 2 * H + H
EXPERT_COUNT, EXPERT_F = 4, 10


def llama(tied: bool = False, **more: Any) -> torch.nn.Module:
    config = AutoConfig.for_model(
        more.pop("kind", "llama"), vocab_size=V, hidden_size=H, intermediate_size=F,
        num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=tied, **more,
    )  # fmt: skip
    return models.on_meta(config)


@pytest.mark.parametrize("tied", [False, True])
def test_one_rank_by_hand(tied: bool) -> None:
    """fp32 masters, no padding: every product is even."""
    others = V * H * (1 if tied else 2) + NORMS
    elements = MATRICES + others
    setup = Setup(stage=2, precision="bf16")
    estimates = {name: estimate(llama(tied), BLOCKS[name], setup) for name in BLOCKS}
    counters = 4  # one fp32 step counter for each flat slice that AdamW has
    assert estimates["AdamW"].state == 8 * elements + counters
    assert estimates["SWAN"].state_matrix == estimates["SinkGD"].state_matrix == 0
    assert (
        estimates["PolarGrad"].state_matrix == estimates["MatrixMuon"].state_matrix == 4 * MATRICES
    )
    for name, estimated in estimates.items():
        if name == "FusedAdamW":
            assert estimated.state == 8 * elements
            assert estimated.workspace == 0
        assert estimated.weights == 2 * elements
        assert estimated.masters == 4 * elements
        assert estimated.gradients == 2 * elements
        if "Adam" not in name:
            assert estimated.state_aux == 8 * others + counters


def test_experts_by_hand_and_spread() -> None:
    """Stacked 3-D experts count; spread over 2 of 4 ranks each has half, cut over 2."""
    moe = {"kind": "qwen2_moe", "num_experts": EXPERT_COUNT, "moe_intermediate_size": EXPERT_F,
           "shared_expert_intermediate_size": F, "decoder_sparse_step": 1}  # fmt: skip
    experts = LAYERS * EXPERT_COUNT * 3 * H * EXPERT_F
    biases = LAYERS * (H + 2 * KEY)
    routers = LAYERS * (EXPERT_COUNT * H + H)
    dense = MATRICES + 2 * V * H + NORMS + biases + routers
    setup = Setup(stage=0, precision="fp32")
    assert estimate(llama(**moe), BLOCKS["AdamW"], setup).weights == 4 * (dense + experts)
    spread = Setup(stage=1, precision="bf16", ranks=4, expert_parallel=2)
    estimated = estimate(llama(**moe), BLOCKS["AdamW"], spread)
    assert estimated.weights == pytest.approx(2 * (dense + experts / 2), abs=64)
    assert estimated.masters == pytest.approx(4 * (dense / 4 + experts / 4), abs=64)
    assert estimated.state == pytest.approx(8 * (dense / 4 + experts / 4), abs=128)


def test_experts_that_are_modules_are_spread() -> None:
    """DeepSpeed's MoE layer has one module per expert: of four, each of two ranks holds two."""

    class Mixture(nn.Module):
        def __init__(self, experts: int) -> None:
            super().__init__()
            self.dense = nn.Linear(8, 8, bias=False)
            self.experts = nn.ModuleDict({"deepspeed_experts": nn.ModuleList()})
            self.experts["deepspeed_experts"].extend(nn.Linear(8, 6) for _ in range(experts))

    def model(experts: int) -> nn.Module:
        dense = llama()
        with torch.device("meta"):
            dense.add_module("mixture", Mixture(experts))
        return dense

    spread = Setup(stage=0, precision="fp32", ranks=2, expert_parallel=2)
    dense = estimate(llama(), BLOCKS["AdamW"], Setup(stage=0, precision="fp32", ranks=2)).weights
    estimated = estimate(model(4), BLOCKS["AdamW"], spread)
    assert estimated.weights == dense + 4 * (8 * 8 + 2 * (8 * 6 + 6))
    with pytest.raises(ValueError, match="does not divide the 3 experts"):
        estimate(model(3), BLOCKS["AdamW"], spread)


def test_experts_are_matrices_and_routers_are_not() -> None:
    """The state of matrices, and room for one expert's gate at a time."""
    moe = {"kind": "qwen2_moe", "num_experts": EXPERT_COUNT, "moe_intermediate_size": EXPERT_F,
           "shared_expert_intermediate_size": F, "decoder_sparse_step": 1}  # fmt: skip
    matrices = MATRICES + LAYERS * EXPERT_COUNT * 3 * H * EXPERT_F
    setup = Setup(stage=3, precision="bf16", ranks=2)
    polar = {"type": "PolarGrad", "params": {"exchange_bucket_size": 1}}
    estimated = estimate(llama(**moe), polar, setup)
    assert estimated.state_matrix == 4 * matrices / 2
    # The shared expert's, which is larger than a routed one's, but not than four of them.
    assert estimated.workspace == 12 * 4 * H * F
    adam = estimate(llama(**moe), BLOCKS["AdamW"], setup)
    assert adam.state_matrix == pytest.approx(8 * matrices / 2, rel=1e-3)


def test_momentum_0_keeps_nothing() -> None:
    block = {"type": "PolarGrad", "params": {"momentum": 0.0}}
    assert estimate(llama(), block, Setup()).state_matrix == 0


def test_polar_first_and_pure_bf16() -> None:
    block = {"type": "PolarGrad", "params": {"momentum_order": "polar_first",
                                             "stochastic_rounding": True}}  # fmt: skip
    assert estimate(llama(), block, Setup(precision="pure-bf16")).state_matrix == 2 * MATRICES


def test_the_bucket_of_the_json_bounds_the_exchange() -> None:
    setup = Setup(stage=3, ranks=2)
    block = {"type": "SWAN", "params": {"exchange_bucket_size": 1}}
    assert estimate(llama(), block, setup).workspace == 12 * 4 * H * F  # one matrix travels alone
    assert estimate(llama(), BLOCKS["SWAN"], setup).workspace == 12 * 4 * MATRICES


@pytest.mark.parametrize(
    ("stage", "precision", "copied"),
    [
        (0, "fp32", MATRICES + 2 * V * H + NORMS),
        (1, "bf16-fp32-gradients", MATRICES + 2 * V * H + NORMS),
        (2, "bf16", MATRICES),
        (3, "bf16", MATRICES),
    ],
)
def test_a_power_copies_the_gradients_of_a_step(stage: int, precision: Any, copied: int) -> None:
    """All of them where one step sees all groups, else those of the matrices, the larger group."""
    setup = Setup(stage=stage, precision=precision)
    with_power, without = (
        estimate(llama(), BLOCKS[name], setup).workspace for name in ("SWANPower", "SWAN")
    )
    assert with_power - without == 4 * copied


def test_fused_adam_counts_without_tensors() -> None:
    fused = {"type": "Adam", "params": {"lr": 1e-3}}
    counted = {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}}
    fused_bytes, counted_bytes = (
        estimate(llama(), optimizer, Setup(precision="fp32")).state
        for optimizer in (fused, counted)
    )
    assert counted_bytes - fused_bytes == 4


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 7))
def test_slices_against_a_walk_over_elements(numels: list[int], ranks: int) -> None:
    """What a rank's slice touches, found element by element."""
    group = Group(tuple((n,) for n in numels), ranks)
    owners = [index for index, n in enumerate(numels) for _ in range(n)]
    size = group.slice_size
    assert size % 2 == 0
    assert size * ranks - len(owners) in range(2 * ranks)
    for rank in range(ranks):
        mine = owners[rank * size : (rank + 1) * size]
        padding = size - len(mine)
        assert group.touched(rank) == sum(numels[i] for i in set(mine)) + padding


def test_70_billion_parameters_in_seconds() -> None:
    started = time.perf_counter()
    model = models.on_meta(shape(8192))
    estimated = estimate(model, BLOCKS["SWAN"], Setup(stage=3, ranks=64))
    assert 6e10 < sum(p.numel() for p in model.parameters()) < 8e10
    assert estimated.masters == pytest.approx(4 * 6.6e10 / 64, rel=0.1)
    assert time.perf_counter() - started < 30


def test_a_larger_card_carries_a_larger_model_and_swan_more_than_adamw() -> None:
    setup = Setup(stage=1, precision="bf16", reduce_bucket_size=10**6)
    sizes = [
        (largest(BLOCKS[name], setup, card * 2**30) or {"bytes": 0, "parameters": 0})
        for name, card in (("AdamW", 8), ("SWAN", 8), ("SWAN", 16))
    ]
    assert sizes[0]["parameters"] < sizes[1]["parameters"] < sizes[2]["parameters"]
    assert sizes[1]["bytes"] <= 8 * 2**30 and sizes[2]["bytes"] <= 16 * 2**30
    assert largest(BLOCKS["AdamW"], setup, 2**20) is None


@pytest.mark.parametrize("path", sorted((ROOT / "configs/deepspeed").glob("*.json")))
def test_the_configs_that_are_shipped_are_understood(path: Any) -> None:
    config = models.load(path)
    setup = Setup(**read_setup(config, 2))
    assert setup.stage == config["zero_optimization"]["stage"]
    if config["optimizer"]["type"] == "Muon":
        with pytest.raises(ValueError, match="DeepSpeed's own"):
            build(config["optimizer"], llama())
    else:
        estimate(llama(), config["optimizer"], setup)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"aio": {}}, "aio"),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast"),
        ({"zero_optimization": {"zero_hpz_partition_size": 2}}, "zero_hpz_partition_size"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "nvme"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu", "ratio": 0.5}}}, "ratio"),
        ({"zero_optimization": {"contiguous_gradients": False}}, "contiguous_gradients"),
        ({"fp16": {"enabled": True, "fp16_master_weights_and_grads": True}}, "fp16_master"),
        ({"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, "bf16_optimizer"),
        ({"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2}, "train_batch_size"),
    ],
)
def test_what_a_json_says_is_never_ignored(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_setup(config, 2)


def test_a_json_is_read() -> None:
    values = read_setup(
        {
            "train_batch_size": 16, "train_micro_batch_size_per_gpu": 2,
            "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"},
            "zero_optimization": {"stage": 1, "reduce_bucket_size": 77},
        },
        4,
    )  # fmt: skip
    setup = Setup(**values)
    assert (setup.stage, setup.ranks, setup.micro_batch, setup.accumulation) == (1, 4, 2, 2)
    assert (setup.precision, setup.reduce_bucket_size) == ("bf16-fp32-gradients", 77)


@pytest.mark.parametrize(
    "values",
    [
        {"stage": 0, "precision": "pure-bf16"},
        {"stage": 2, "offload_param": True},
        {"stage": 2, "precision": "pure-bf16", "offload_optimizer": True},
        {"stage": 1, "ranks": 3, "expert_parallel": 2},
    ],
)
def test_impossible_setups(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="stage|pure-bf16|divide"):
        Setup(**values)


def test_experts_are_spread_as_the_json_says() -> None:
    auto_ep = {"expert_parallel": {"enabled": True, "autoep_size": 2}}
    assert read_setup({"zero_optimization": {"stage": 3}, **auto_ep}, 4)["expert_parallel"] == 2
    assert "expert_parallel" not in read_setup({"expert_parallel": {"enabled": False}}, 4)
    with pytest.raises(ValueError, match="autoep_size 1 is not estimated"):
        read_setup({"expert_parallel": {"enabled": True}}, 4)


def test_what_does_not_fit_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 2 * host_memory.IMPORTS)
    small = estimate(llama(), BLOCKS["SWAN"], Setup(reduce_bucket_size=1000))
    host_memory.check("SWAN", small, ranks=1)
    with pytest.raises(host_memory.NotEnoughMemoryError, match=r"SWAN is not run.*2 rank"):
        host_memory.check("SWAN", small, ranks=2)
