"""Tensor-parallel ranks share the work, their copies stay equal; what does not fit is refused."""

import copy
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

import gradopt_ds
from gradopt_ds.matrices import RowShards
from tests.distributed.engines import assert_raises, matrix_optimizer
from tests.distributed.fused_model import Mpu, build_fused, cut_as_megatron
from tests.distributed.harness import distributed
from tests.distributed.parallel_state import forget_engines
from tests.distributed.tensor_engines import TensorCase, start, train
from tests.distributed.tensor_model import LLAMA_MATRICES, MODELS, build_llama
from tests.distributed.test_exchange import counted_all_to_all

SHARED = [
    TensorCase("SWAN", 0, accumulation=2),
    TensorCase("SWAN", 2, accumulation=2),
    TensorCase("SWAN", 1, model="fused"),
]


@distributed(2, 4, cases=SHARED)
def test_one_oracle_call_per_matrix_and_step(case: TensorCase) -> None:
    """Over all ranks; at stage 0 every data-parallel rank has a step of its own. And the wire."""
    engine = start(case)
    optimizer = matrix_optimizer(engine)
    rule, matrices = optimizer._matrix_rule, torch.zeros(dist.get_world_size())

    def counting(
        batch: Tensor, across: RowShards, group: Any, rule: Any = rule
    ) -> tuple[Tensor, Tensor]:
        matrices[dist.get_rank()] += batch.shape[0]
        return rule(batch, across, group)

    optimizer._matrix_rule = counting  # type: ignore[assignment, method-assign]
    sent: list[int] = []
    with counted_all_to_all(sent):
        train(engine, range(1))
    exchanges = optimizer.matrix_map.exchanges.values()  # type: ignore[attr-defined]
    assert sum(sent) == sum(e.plan.bytes_sent(e.rank) for e in exchanges) > 0
    engine.destroy()
    dist.all_reduce(matrices)
    replicas = 1 if case.stage else dist.get_world_size() // 2
    assert matrices.sum() == replicas * (len(LLAMA_MATRICES) if case.model == "LLaMA" else 8)
    assert matrices.max() - matrices.min() <= (4 if case.model == "LLaMA" else 8)


def copies_and_shards(engine: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's weights: those that are as in the whole model, and the others."""
    whole = dict(build_llama().named_parameters())
    parts: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
    for name, param in engine.module.named_parameters():
        parts[param.shape != whole[name].shape][name] = param.detach()
    return parts


@distributed(2, cases=[TensorCase("SWAN", 2, "bf16", clipping=0.05)])
def test_copies_stay_equal_for_a_hundred_steps(case: TensorCase) -> None:
    """To the last bit; and the weights do move."""
    engine = start(case)
    before = {n: w.clone() for n, w in copies_and_shards(engine)[0].items()}
    train(engine, range(100))
    copies, shards = copies_and_shards(engine)
    assert len(copies) == 6 and len(shards) == 15
    for name, weight in copies.items():
        theirs = [torch.empty_like(weight) for _ in range(2)]
        dist.all_gather(theirs, weight.contiguous())
        assert torch.equal(*theirs), name
        assert not torch.equal(weight, before[name])
    engine.destroy()


def initialize(model: nn.Module, case: TensorCase, **arguments: Any) -> Any:
    """An engine on a model of the test's."""
    return deepspeed.initialize(model=model, config=case.config, **arguments)[0]


@distributed(2)
def test_what_does_not_fit_is_refused() -> None:
    """Different copies, a fused weight as one matrix, a model that is cut already, ZeRO 3."""
    case = TensorCase("SWAN", 2)
    model = build_llama()
    model.model.norm.weight.data += dist.get_rank()
    assert_raises(
        ValueError,
        "different copies of model.norm.weight",
        lambda: initialize(model, case),
    )
    fused = copy.deepcopy(TensorCase("SWAN", 2, model="fused").config)
    fused["optimizer"]["params"]["split"]["*.qkv.weight"] = 1
    assert_raises(
        ValueError,
        '"split" ({"blocks.0.qkv.weight": [8, 4, 4]})',
        lambda: deepspeed.initialize(model=build_fused(), config=fused),
    )
    assert_raises(ValueError, "Build the model anew", lambda: initialize(model, case))
    assert_raises(
        NotImplementedError,
        "tensor parallelism with ZeRO stage 3",
        lambda: initialize(build_llama(), TensorCase("SWAN", 3)),
    )


@distributed(2)
def test_an_optimizer_made_by_hand() -> None:
    """Before AutoTP it knows the whole model; from Megatron's shards it cannot."""
    model = build_llama()
    groups = gradopt_ds.matrix_param_groups(model)
    optimizer = gradopt_ds.SWAN(groups, lr=0.2, alpha=0.1, weight_decay=0.1, oracle="svd")
    case = TensorCase("SWAN", 2)
    config = without_optimizer(case)
    engine = deepspeed.initialize(model=model, config=config, optimizer=optimizer)[0]
    named = start(case)
    train(engine, range(1))
    train(named, range(1))
    expected = dict(named.module.named_parameters())
    for name, param in engine.module.named_parameters():
        if name in LLAMA_MATRICES:
            assert torch.equal(param, expected[name]), name
    engine.destroy()
    named.destroy()
    forget_engines()
    mpu = Mpu(2)
    cut = cut_as_megatron(MODELS["Megatron"].build(), mpu)  # type: ignore[arg-type]
    unnamed = without_optimizer(TensorCase("SWAN", 2, model="Megatron"))
    groups = gradopt_ds.matrix_param_groups(cut, split={"*.qkv.weight": 1})
    by_hand = gradopt_ds.SWAN(groups, lr=0.2)
    assert_raises(
        ValueError,
        "is a shard of a parameter of shape",
        lambda: deepspeed.initialize(model=cut, config=unnamed, optimizer=by_hand, mpu=mpu),
    )


def without_optimizer(case: TensorCase) -> dict[str, Any]:
    """The JSON, for an optimizer that is made by hand."""
    return {key: value for key, value in case.config.items() if key != "optimizer"}
