"""Live engines against the estimator; ``launch`` starts one of these per rank."""

import gc
import json
import sys
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from transformers import AutoConfig

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.common.process_end import end_process
from gradopt_ds.experiments.pretrain.run import start_processes
from gradopt_ds.memory.allocations import PeakBytes
from gradopt_ds.memory.estimate import estimate
from gradopt_ds.memory.live import existing_tensors
from gradopt_ds.memory.moments import Moments
from gradopt_ds.memory.optimizers import BLOCKS
from gradopt_ds.memory.setup import Setup
from tests.conftest import ROOT

SMALL = {
    "vocab_size": 130,
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 32,
}
SHAPES = {
    "llama": lambda: AutoConfig.for_model("llama", **SMALL),
    "tied llama": lambda: AutoConfig.for_model("llama", **SMALL, tie_word_embeddings=True),
    "qwen2_moe": lambda: AutoConfig.for_model("qwen2_moe", **SMALL, **EXPERTS),
    "60m": lambda: models.model_config(ROOT / "configs/models/60m.json"),
}
TOKENS = 16
BUCKET = 20_000
"""More elements than the small models' largest parameter has."""


def case(shape: str, optimizer: str, stage: int, precision: str, **more: Any) -> list[Any]:
    """What one engine is built from, as JSON carries it."""
    return [shape, optimizer, {"stage": stage, "precision": precision, **more}]


STAGES = [(0, "fp32"), (0, "bf16"), (1, "fp32"), (1, "bf16"), (1, "bf16-fp32-gradients"),
          (2, "bf16"), (2, "bf16-fp32-gradients"), (2, "pure-bf16"), (3, "fp32"), (3, "bf16"),
          (3, "pure-bf16")]  # fmt: skip
PARTITIONED = {"param_persistence_threshold": 500, "sub_group_size": 6000}
CASES = {
    1: [case("llama", "SWAN", *one) for one in STAGES[::2]] + [case("60m", "SWAN", 2, "bf16")],
    2: [case("llama", "PolarGrad", *one) for one in STAGES]
    + [
        case("tied llama", "AdamW", 2, "bf16"),
        case("tied llama", "SWAN", 3, "bf16", **PARTITIONED),
        case("qwen2_moe", "AdamW", 1, "bf16"),
        case("qwen2_moe", "AdamPower", 3, "fp32", **PARTITIONED),
        case("qwen2_moe", "PolarGrad", 2, "bf16"),
        case("llama", "PolarGrad", 1, "bf16", accumulation=2),
        case("llama", "SWAN", 2, "bf16", offload_optimizer=True),
        case("llama", "SWAN", 3, "bf16", offload_optimizer=True, offload_param=True),
    ],
    3: [case("llama", "AdamW", *one) for one in STAGES[1::2]]
    + [
        case("llama", "SinkGD", 2, "fp32"),
        case("llama", "MatrixMuon", 3, "bf16", **PARTITIONED),
        case("qwen2_moe", "AdamW", 2, "fp32"),
        case("qwen2_moe", "SWAN", 3, "bf16"),
    ],
}


def main() -> None:
    """Write what every rank held and was estimated to hold, case by case."""
    start_processes()
    found = [run(*one) for one in CASES[dist.get_world_size()]]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps({"ranks": everyone}))
    # A process that ends while another still talks to it takes gloo's threads down with it.
    dist.barrier()
    dist.destroy_process_group()


def run(shape: str, optimizer: str, told: dict[str, Any]) -> dict[str, Any]:
    """One engine, two steps."""
    setup = Setup(**told, ranks=dist.get_world_size(), sequence_length=TOKENS,
                  reduce_bucket_size=10**8 if shape == "60m" else BUCKET)  # fmt: skip
    wanted = estimate(models.on_meta(SHAPES[shape]()), BLOCKS[optimizer], setup, dist.get_rank())
    before = existing_tensors()
    model = models.build(SHAPES[shape](), seed=0)
    config = setup.engine_config(BLOCKS[optimizer])
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(),
                                      config=config)  # fmt: skip
    del model
    moments = Moments(engine, before)
    tokens = torch.randint(engine.module.config.vocab_size, (1, TOKENS))
    peak = PeakBytes(engine.device)
    for step in range(2):
        if step:  # what the first step allocates is state
            peak.during(engine.basic_optimizer, "step")
        for micro in range(setup.accumulation):
            loss = engine(input_ids=tokens, labels=tokens).loss
            engine.backward(loss)
            del loss
            if micro == setup.accumulation - 1 or setup.stage == 1:
                moments.take("backward")
            engine.step()
        moments.take("rest")
    rules = {group.get("rule") for group in engine.basic_optimizer.param_groups}
    by_rule = {"matrix": 0, "aux": 0} if None not in rules else {}
    for group in engine.basic_optimizer.param_groups if by_rule else ():
        states = [engine.basic_optimizer.state.get(p, {}) for p in masters_of(engine, group)]
        held = chain.from_iterable(state.values() for state in states)
        by_rule[group["rule"]] += sum(t.untyped_storage().nbytes() for t in held)
    released(engine)
    return {
        "wanted": asdict(wanted),
        "found": moments.taken,
        "by_rule": by_rule,
        "workspace": peak.most,
    }


def masters_of(engine: Any, group: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that a group is stepped on; stage 3 swaps them in and out."""
    wrapper = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        return group["params"]
    index = next(i for i, one in enumerate(engine.basic_optimizer.param_groups) if one is group)
    flats = enumerate(wrapper.fp32_partitioned_groups_flat)
    return [flat for i, flat in flats if wrapper.sub_group_to_group_id[i] == index]


def released(engine: Any) -> None:
    """Let the next engine find its memory empty."""
    engine.destroy()
    gc.collect()


if __name__ == "__main__":
    main()
    end_process()
