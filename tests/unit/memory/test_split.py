"""Tensor and pipeline parallelism in the estimate: what all ranks hold together, by hand."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from gradopt_ds.experiments.common import models
from gradopt_ds.memory.deepspeed_json import read_setup
from gradopt_ds.memory.estimate import Estimate, estimate
from gradopt_ds.memory.optimizers import BLOCKS
from gradopt_ds.memory.setup import Setup

V, H, F, LAYERS = 96, 16, 24, 4
LAYER = 4 * H * H + 3 * H * F
"""Elements of a layer's matrices."""


def llama() -> nn.Module:
    config = AutoConfig.for_model(
        "llama", vocab_size=V, hidden_size=H, intermediate_size=F, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False,
    )  # fmt: skip
    return models.on_meta(config)


def every_rank(optimizer: str, **sizes: Any) -> list[Estimate]:
    setup = Setup(**{"precision": "bf16", "sequence_length": 8, **sizes})
    ranks = range(setup.processes)
    return [estimate(llama(), BLOCKS[optimizer], setup, rank) for rank in ranks]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_two_tensor_ranks_have_half_of_what_is_cut(stage: int) -> None:
    """Layers and head are cut; embedding and norms are on both."""
    held = LAYERS * LAYER // 2 + V * H // 2 + V * H + (2 * LAYERS + 1) * H
    matrices = LAYERS * LAYER // 2
    for estimated in every_rank("PolarGrad", stage=stage, tensor_parallel=2):
        assert estimated.weights == 2 * held
        assert estimated.masters == 4 * held
        assert estimated.gradients == 2 * held
        assert estimated.state_matrix == 4 * matrices


def test_the_workspace_is_the_plans() -> None:
    """One exchange of whole matrices, the bucket large enough for all, by hand.

    Two ranks own half of the matrices each, and are bounded by twelve times these.
    """
    (first, second) = every_rank("SWAN", stage=2, tensor_parallel=2)
    assert first.workspace == second.workspace
    assert first.workspace == pytest.approx(12 * 4 * LAYERS * LAYER / 2, rel=0.1)


def test_stages_hold_the_model_together() -> None:
    """Seven layers on three stages: embedding and two, three, one with norm and head."""
    ranks = every_rank("PolarGrad", stage=1, pipeline=3, ranks=2, pipeline_partition="uniform")
    assert len(ranks) == 6
    layer = LAYER + 2 * H
    elements = [V * H + 2 * layer, 2 * layer, H + V * H]
    assert [estimated.weights for estimated in ranks[::2]] == [2 * n for n in elements]
    assert [estimated.masters for estimated in ranks[1::2]] == [2 * n for n in elements]
    assert [e.state_matrix for e in ranks] == [4 * LAYER] * 4 + [0] * 2
    assert ranks[4].workspace == 0  # no matrix
    setup = Setup(stage=1, pipeline=3, ranks=2, pipeline_partition="uniform", sequence_length=8)
    most = estimate(llama(), BLOCKS["PolarGrad"], setup)
    assert most.total == max(estimated.total for estimated in ranks)


def test_a_stage_keeps_the_activations_of_the_micro_batches_before_it() -> None:
    """The first of two stages runs one ahead, if there are so many."""
    sizes = {"stage": 0, "pipeline": 2, "pipeline_partition": "uniform"}
    one, four = (every_rank("AdamW", accumulation=n, **sizes) for n in (1, 4))
    rotary = 2 * 2 * 8 * 4  # sine and cosine in bf16, for eight positions and heads of four
    assert four[0].activations - rotary == 2 * (one[0].activations - rotary)
    assert four[1].activations == one[1].activations


def test_all_three_together_hold_what_one_rank_holds() -> None:
    """Copies counted once: masters of all ranks, without padding, are the model's."""
    ranks = every_rank("AdamW", stage=1, tensor_parallel=2, pipeline=2, ranks=2)
    copies = V * H + (2 * LAYERS + 1) * H  # a second time, for the second tensor-parallel rank
    elements = LAYERS * LAYER + V * H + 2 * copies
    assert sum(estimated.masters for estimated in ranks) == 4 * elements


def test_what_is_not_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="offload_optimizer has not been measured"):
        Setup(stage=2, tensor_parallel=2, offload_optimizer=True)
    with pytest.raises(ValueError, match="stage 3"):
        Setup(stage=3, tensor_parallel=2)
    with pytest.raises(ValueError, match="pipeline is set in a PipelineModule"):
        Setup(stage=1, pipeline=2).engine_config(BLOCKS["AdamW"])


def test_autotp_of_the_json() -> None:
    """Size and preset; other keys mean another cut."""
    block = {"autotp_size": 2, "preset_model": "qwen2"}
    read = read_setup({"tensor_parallel": block}, 3)
    assert Setup(**read).processes == 6
    assert Setup(**read).engine_config(BLOCKS["AdamW"])["tensor_parallel"] == block
    with pytest.raises(ValueError, match="partition_config"):
        read_setup({"tensor_parallel": {"autotp_size": 2, "partition_config": {}}}, 1)


def test_a_frozen_parameter_has_no_state() -> None:
    """It belongs to neither rule."""
    model = llama()
    model.get_parameter("lm_head.weight").requires_grad_(False)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = estimate(model, BLOCKS["FusedAdamW"], Setup(stage=0, precision="fp32")).state
    assert state == 8 * trained
    assert model.get_parameter("lm_head.weight").dtype == torch.float32
