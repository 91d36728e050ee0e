"""The estimator against live engines: stages 0 to 3, precisions, 1, 2 and 3 ranks."""

import gc
from dataclasses import asdict
from itertools import chain
from typing import Any

import deepspeed
import pytest
import torch
import torch.distributed as dist

from gradopt_ds.experiments.common import models
from gradopt_ds.memory.allocations import PeakBytes
from gradopt_ds.memory.estimate import estimate
from gradopt_ds.memory.live import existing_tensors
from gradopt_ds.memory.moments import Moments
from gradopt_ds.memory.optimizers import BLOCKS
from gradopt_ds.memory.setup import Setup
from tests.distributed.harness import distributed
from tests.distributed.memory_cases import CASES, SHAPES, Case

TOKENS = 16
BUCKET = 20_000
"""More elements than the small models' largest parameter has."""

SMALL_CHANGE = 64
"""Bytes of counters and flags that ZeRO keeps in tensors."""
OTHER = 1024
"""Bytes of tensors that nobody owns: rotary tables, the tokens, the loss."""


DESCRIBED = {
    "moe_layer_pattern": r"model\.layers\.\d+\.mlp",
    "top_k": 2,
    "has_shared_experts": True,
    "shared_experts_pattern": "shared_expert",
    "shared_experts_gate_pattern": "shared_expert_gate",
}
"""What AutoEP needs of a model that it does not know by name."""


@distributed(1, 2, 3, 4, cases=CASES)
def test_the_estimate_is_what_an_engine_holds(case: Case) -> None:
    """On every rank."""
    result = measured(case)
    weights_masters_and_state_to_the_byte(**result)
    gradients_and_buffers(**result)
    # Everything that the garbage collector sees after a step has an owner.
    assert result["found"]["rest"]["other"] <= OTHER
    # What a step allocates and holds at a time, state excepted.
    assert 0 < result["workspace"] <= result["wanted"]["workspace"] + SMALL_CHANGE
    if case.optimizer in ("SWAN", "SinkGD"):
        assert result["by_rule"]["matrix"] == 0, "these have no state for matrices"


def weights_masters_and_state_to_the_byte(
    wanted: dict[str, Any], found: dict[str, Any], by_rule: dict[str, int], **_: Any
) -> None:
    rest = found["rest"]
    assert rest["weights"] == wanted["weights"]
    assert rest["masters"] == wanted["masters"]
    assert rest["state"] == wanted["state_matrix"] + wanted["state_aux"]
    if by_rule:
        assert by_rule["matrix"] == wanted["state_matrix"]
        assert by_rule["aux"] == wanted["state_aux"]


def gradients_and_buffers(wanted: dict[str, Any], found: dict[str, Any], **_: Any) -> None:
    """Gradients after the backward pass and within the step, buffers between steps."""
    assert found["backward"]["gradients"] == pytest.approx(wanted["gradients"], rel=0.02)
    assert found["step"]["gradients"] == pytest.approx(wanted["step_gradients"], rel=0.02)
    assert 0 <= found["rest"]["buffers"] - wanted["buffers"] <= SMALL_CHANGE


def measured(case: Case) -> dict[str, Any]:
    """One engine, two steps."""
    shape = SHAPES[case.shape]()
    setup = Setup(
        stage=case.stage,
        precision=case.precision,
        ranks=dist.get_world_size() // case.more.get("tensor_parallel", 1),
        sequence_length=TOKENS,
        reduce_bucket_size=10**8 if case.shape == "60m" else BUCKET,
        **case.more,
    )
    wanted = estimate(models.on_meta(shape), BLOCKS[case.optimizer], setup, dist.get_rank())
    before = existing_tensors()
    model = models.build(shape, seed=0)
    config = setup.engine_config(BLOCKS[case.optimizer])
    if setup.expert_parallel > 1:
        # Under another name, so that AutoEP works with every release of transformers.
        model.config.model_type = "mixture"
        config["expert_parallel"] |= DESCRIBED
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
    index = next(i for i, own in enumerate(engine.basic_optimizer.param_groups) if own is group)
    flats = enumerate(wrapper.fp32_partitioned_groups_flat)
    return [flat for i, flat in flats if wrapper.sub_group_to_group_id[i] == index]


def released(engine: Any) -> None:
    """Let the next engine find its memory empty."""
    engine.destroy()
    gc.collect()
