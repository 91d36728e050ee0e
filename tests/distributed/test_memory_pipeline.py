"""The estimate against a LLaMA whose layers a live ``PipelineModule`` divides."""

from typing import Any

import deepspeed
import pytest
import torch
import torch.distributed as dist
from deepspeed.pipe import PipelineModule
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from gradopt_ds.experiments.common import models
from gradopt_ds.memory.estimate import estimate
from gradopt_ds.memory.live import existing_tensors
from gradopt_ds.memory.moments import Moments
from gradopt_ds.memory.optimizers import BLOCKS
from gradopt_ds.memory.setup import Setup
from tests.distributed.harness import distributed
from tests.distributed.memory_cases import SHAPES, Case
from tests.distributed.test_memory import BUCKET, SMALL_CHANGE, TOKENS, released

UNIFORM = {"pipeline_partition": "uniform", "accumulation": 2}
TWO = [
    Case("llama", "AdamW", 0, "fp32", UNIFORM),
    Case("llama", "PolarGrad", 1, "fp32", {"accumulation": 2}),
    Case("llama", "SWAN", 1, "bf16-fp32-gradients", UNIFORM),
]


class Layer(nn.Module):
    """A decoder layer that makes its own positions."""

    def __init__(self, layer: nn.Module, config: Any) -> None:
        super().__init__()
        self.layer, self.rotary = layer, LlamaRotaryEmbedding(config)

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        places = torch.arange(x.shape[1])[None]
        return self.layer(x, position_embeddings=self.rotary(x, places), position_ids=places)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


@distributed(2, 4, cases={2: TWO, 4: TWO[1:2]})
def test_the_estimate_is_what_a_stage_holds(case: Case) -> None:
    """On every rank of two stages: weights, masters and state to the byte."""
    config = SHAPES[case.shape]()
    setup = Setup(
        stage=case.stage,
        precision=case.precision,
        pipeline=2,
        ranks=dist.get_world_size() // 2,
        sequence_length=TOKENS,
        reduce_bucket_size=BUCKET,
        **case.more,
    )
    wanted = estimate(models.on_meta(config), BLOCKS[case.optimizer], setup, dist.get_rank())
    before = existing_tensors()
    engine = start(case, config, setup)
    moments = Moments(engine, before)
    sample = torch.zeros(1, TOKENS, dtype=torch.long)
    for _ in range(2):
        engine.train_batch(data_iter=iter([(sample, sample)] * setup.accumulation))
    moments.take("rest")
    rest = moments.taken["rest"]
    assert rest["weights"] == wanted.weights
    assert rest["masters"] == wanted.masters
    assert rest["state"] == wanted.state
    gradients = moments.taken["step"]["gradients"]
    assert gradients == pytest.approx(wanted.step_gradients, rel=0.02)
    assert 0 <= rest["buffers"] - wanted.buffers <= SMALL_CHANGE
    released(engine)


def start(case: Case, config: Any, setup: Setup) -> Any:
    """Embedding, layers, norm and head, one after the other."""
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(config)
    own = whole.model
    layers = [Layer(layer, config) for layer in own.layers]
    sequence = [own.embed_tokens, *layers, own.norm, whole.lm_head]
    module = PipelineModule(
        sequence, num_stages=2, loss_fn=loss, partition_method=setup.pipeline_partition
    )
    single = setup.model_copy(update={"pipeline": 1})
    settings = single.engine_config(BLOCKS[case.optimizer])
    return deepspeed.initialize(model=module, config=settings)[0]
