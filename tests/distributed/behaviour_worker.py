"""What real engines do besides the step; each function is one test of ``test_behaviour.py``."""

import json
import random
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from torch import Tensor, nn

from gradopt_ds import SWAN, GradPower, PolarGrad, matrix_param_groups
from gradopt_ds.experiments.common.process_end import end_process
from gradopt_ds.matrices import WHOLE, ExchangeSettings, RowShards
from gradopt_ds.memory.allocations import LiveStorages
from gradopt_ds.ops import Eigh, PolarExpress, nuclear_norm, swan_direction
from gradopt_ds.optim import MatrixOptimizer
from gradopt_ds.sharding import (
    Exchange,
    Matrix,
    chunked_layout,
    contiguous_layout,
    make_plan,
)
from tests.distributed.cases import AUX, AUX_RULE
from tests.distributed.model import MATRICES, SAMPLES, TinyLM, build_model, micro_batch
from tests.distributed.moe_model import EXPERTS, LAYER, build_moe
from tests.reference import Reference, Rule

POLAR = {"lr": 0.1, "momentum": 0.8, "oracle": "svd", "aux": AUX}
SWAN_PARAMS = {"lr": 0.2, "alpha": 0.1, "oracle": "svd", "aux": AUX}


def config(
    type_: str | None = "PolarGrad",
    params: dict[str, Any] | None = None,
    *,
    stage: int = 2,
    **extra: Any,
) -> dict[str, Any]:
    """A DeepSpeed config for the tiny model."""
    zero = {"stage": stage, **extra.pop("zero", {})}
    named = (
        {"optimizer": {"type": type_, "params": POLAR if params is None else params}}
        if type_
        else {}
    )
    return {
        "train_micro_batch_size_per_gpu": SAMPLES,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0
        "zero_optimization": zero,
        **named,
        **extra,
    }


def start(settings: dict[str, Any], **arguments: Any) -> Any:
    """An engine on the tiny model."""
    arguments.setdefault("model", build_model())
    return deepspeed.initialize(config=settings, **arguments)[0]


def train(engine: Any, steps: range) -> None:
    """Take optimizer steps, with the accumulation that the engine is set to."""
    for step in steps:
        for micro in range(engine.gradient_accumulation_steps()):
            engine.backward(engine(micro_batch(step, micro, dist.get_rank())))
            engine.step()


def weights(engine: Any) -> dict[str, Tensor]:
    """Copies of the model's weights."""
    params = list(engine.module.parameters())
    is_cut = any(hasattr(param, "ds_id") for param in params)
    with deepspeed.zero.GatheredParameters(params, enabled=is_cut):
        return {n: p.detach().clone() for n, p in engine.module.named_parameters()}


def matrix_optimizer(engine: Any) -> MatrixOptimizer:
    """This library's optimizer inside an engine."""
    optimizer = engine.basic_optimizer
    base = optimizer.base if isinstance(optimizer, GradPower) else optimizer
    assert isinstance(base, MatrixOptimizer)
    return base


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bitwise equality of two sets of weights."""
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), f"{name} differs"


@contextmanager
def counted_all_to_all(sent: list[int]) -> Any:
    """Record the bytes that this rank hands to each all-to-all, its own part left out."""
    original = dist.all_to_all_single

    def counting(output: Tensor, input_: Tensor, out: Any, in_: Any, **kwargs: Any) -> Any:
        assert in_[dist.get_rank()] == 0
        sent.append(input_.numel() * input_.element_size())
        return original(output, input_, out, in_, **kwargs)

    dist.all_to_all_single = counting
    try:
        yield
    finally:
        dist.all_to_all_single = original


def a_skipped_step_moves_nothing() -> None:
    """fp16 overflow on one rank: no weight, momentum or AdamW step count changes anywhere."""
    for stage in (0, 1, 2, 3):
        fp16 = {"enabled": True, "initial_scale_power": 8, "hysteresis": 1}
        params = {**POLAR, "power": 1.2}
        engine = start(config(params=params, stage=stage, fp16=fp16))
        train(engine, range(1))
        state_before = _state(engine)
        before, scale = weights(engine), engine.optimizer.loss_scale
        loss = engine(micro_batch(1, 0, dist.get_rank()))
        engine.backward(loss * (float("inf") if dist.get_rank() == 0 else 1.0))
        engine.step()
        assert engine.was_step_applied() is False and engine.optimizer.loss_scale < scale
        assert_same(before, weights(engine))
        assert_same(state_before, _state(engine))
        train(engine, range(2, 3))
        assert not torch.equal(weights(engine)["embed.weight"], before["embed.weight"])
        engine.destroy()


def _state(engine: Any) -> dict[str, Tensor]:
    optimizer = engine.basic_optimizer
    params = [param for group in optimizer.param_groups for param in group["params"]]
    # Stage 3 puts its slices into the groups for the step only.
    params = getattr(engine.optimizer, "fp32_partitioned_groups_flat", params)
    return {
        f"{i}.{key}": value.clone()
        for i, param in enumerate(params)
        for key, value in optimizer.state[param].items()
    }


def power_sees_the_averaged_gradient_once() -> None:
    """phi of the mean over ranks and micro-batches, not the mean of phi; and once a step."""
    accumulation = {"gradient_accumulation_steps": 3}
    engine = start(config("GradPower", {
        "power": 1.5, "base": {"type": "SGD", "params": {"lr": 1.0}},
    }, **accumulation))  # fmt: skip
    twin = build_model()
    for rank in range(dist.get_world_size()):
        for micro in range(3):
            (twin(micro_batch(0, micro, rank)) / (3 * dist.get_world_size())).backward()
    before = weights(engine)
    train(engine, range(1))
    for name, param in twin.named_parameters():
        g = param.grad
        assert g is not None
        expected = -g.sign() * g.abs() ** 1.5
        found = weights(engine)[name] - before[name]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-7)


def schedulers_keep_the_ratio() -> None:
    """DeepSpeed's JSON scheduler writes one lr into all groups; aux keeps its proportion."""
    scheduler = {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": 0.0, "warmup_max_lr": 0.1, "warmup_num_steps": 4,
                   "warmup_type": "linear"},
    }  # fmt: skip
    engine = start(config(scheduler=scheduler))
    rule = Rule("PolarGrad", lr=0.1, momentum=0.8)
    before = {n: p.detach().double().numpy().copy() for n, p in engine.module.named_parameters()}
    references = {n: Reference(rule if n in MATRICES else AUX_RULE, w) for n, w in before.items()}
    for step in range(4):
        engine.backward(engine(micro_batch(step, 0, dist.get_rank())))
        lrs = {group["lr"] for group in engine.optimizer.param_groups}
        assert len(lrs) == 1, "the scheduler should have written one lr into all groups"
        lr = lrs.pop()
        for name, param in engine.module.named_parameters():
            reference = references[name]
            ratio = 1.0 if name in MATRICES else 0.01 / 0.1
            reference.rule = Rule(**{**vars(reference.rule), "lr": lr * ratio})
            reference.step(safe_get_full_grad(param).double().numpy())
        engine.step()
    assert lr > 0.04
    for name, param in engine.module.named_parameters():
        moved = references[name].weight - before[name]
        error = np.linalg.norm(param.detach().double().numpy() - references[name].weight)
        assert error < 1e-4 * np.linalg.norm(moved), name


def objects_and_callables_equal_json() -> None:
    """The three ways to name an optimizer take bit-equal steps, at every stage."""
    for stage in (0, 1, 2, 3):
        settings = config(None, stage=stage)
        by_name = start(config(stage=stage))
        model = build_model()
        by_object = start(
            settings, model=model, optimizer=PolarGrad(matrix_param_groups(model), **POLAR)
        )
        other = build_model()
        by_callable = start(
            settings,
            model=other,
            optimizer=lambda params: PolarGrad(matrix_param_groups(other, params), **POLAR),
        )
        for engine in (by_name, by_object, by_callable):
            train(engine, range(2))
        assert_same(weights(by_name), weights(by_object))
        assert_same(weights(by_name), weights(by_callable))


def groups_keep_their_settings() -> None:
    """Per-group lr and weight decay act in both halves of a split group."""
    model = build_model()
    first = [p for n, p in model.named_parameters() if n.startswith("blocks.0.")]
    rest = [p for n, p in model.named_parameters() if not n.startswith("blocks.0.")]
    groups = [
        {"params": first, "lr": 0.05, "weight_decay": 0.3, "name": "first"},
        {"params": rest, "name": "rest"},
    ]
    engine = start(config(), model=model, model_parameters=groups)
    assert [g["name"] for g in engine.optimizer.param_groups] == ["first", "first", "rest", "rest"]
    before = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    engine.backward(engine(micro_batch(0, 0, dist.get_rank())))
    gradients = {
        n: safe_get_full_grad(p).double().numpy() for n, p in engine.module.named_parameters()
    }
    engine.step()
    for name, param in engine.module.named_parameters():
        rule = Rule("PolarGrad", lr=0.1, momentum=0.8) if name in MATRICES else AUX_RULE
        if name.startswith("blocks.0."):
            halved = {"lr": rule.lr / 2, "weight_decay": 0.3}
            rule = Rule(**{**vars(rule), **halved})
        reference = Reference(rule, before[name])
        reference.step(gradients[name])
        moved = np.linalg.norm(reference.weight - before[name])
        error = np.linalg.norm(param.detach().double().numpy() - reference.weight)
        assert error < 1e-4 * moved, f"{name}: {error / moved}"


def one_oracle_call_per_matrix_and_step() -> None:
    """Whatever the accumulation, and together over all ranks, not on each."""
    for stage, zero in ((1, {}), (2, {}), (3, {}), (3, {"sub_group_size": 150})):
        engine = start(config(stage=stage, zero=zero, gradient_accumulation_steps=3))
        optimizer = matrix_optimizer(engine)
        rule, matrices = optimizer._matrix_rule, torch.zeros(1)

        def counting(
            batch: Tensor, across: RowShards, group: Any, rule: Any = rule, count: Any = matrices
        ) -> tuple[Tensor, Tensor]:
            count.add_(batch.shape[0])
            return rule(batch, across, group)

        optimizer._matrix_rule = counting  # type: ignore[method-assign]
        train(engine, range(2))
        dist.all_reduce(matrices)
        assert matrices.item() == 2 * len(MATRICES)


def every_expert_gets_one_oracle_call() -> None:
    """Ten gates and ups, five downs, four of attention, three of the shared expert; and batched."""
    for stage, zero in ((1, {}), (2, {}), (3, {"stage3_param_persistence_threshold": 0})):
        engine = start(config(stage=stage, zero=zero), model=build_moe())
        optimizer = matrix_optimizer(engine)
        rule, matrices, calls = optimizer._matrix_rule, torch.zeros(1), []

        def counting(
            batch: Tensor,
            across: RowShards,
            group: Any,
            rule: Any = rule,
            count: Any = matrices,
            calls: Any = calls,
        ) -> tuple[Tensor, Tensor]:
            count.add_(batch.shape[0])
            calls.append(tuple(batch.shape[1:]))
            return rule(batch, across, group)

        optimizer._matrix_rule = counting  # type: ignore[method-assign]
        train(engine, range(1))
        dist.all_reduce(matrices)
        assert matrices.item() == 10 + 5 + 4 + 3
        # Once for the matrices that are whole here, once for those that are put together here.
        assert max(calls.count(shape) for shape in calls) <= 2
        cut = {
            matrix.name
            for exchange in optimizer.matrix_map.exchanges.values()  # type: ignore[attr-defined]
            for index, matrix in enumerate(exchange.plan.layout.matrices)
            if exchange.plan.strategies[index] != "local"
        }
        assert any(".experts." in name for name in cut)


def idle_experts_do_not_move() -> None:
    """Not by a bit, at any stage, where no rank sent them a token; the others do."""
    for stage, (name, params) in product(
        (0, 2, 3), (("SWAN", SWAN_PARAMS), ("PolarGrad", POLAR), ("MuonPower", {"lr": 0.1}))
    ):
        engine = start(config(name, params, stage=stage), model=build_moe())
        chosen: set[int] = set()
        router = engine.module.model.layers[0].mlp.gate
        router.register_forward_hook(
            lambda *call, seen=chosen: seen.update(call[-1][2].flatten().tolist())
        )
        before = weights(engine)
        engine.backward(engine(torch.arange(3)[None]))
        engine.step()
        assert 0 < len(chosen) < EXPERTS
        after = weights(engine)
        for key in (f"{LAYER}.mlp.experts.gate_up_proj", f"{LAYER}.mlp.experts.down_proj"):
            still = [torch.equal(a, b) for a, b in zip(before[key], after[key], strict=True)]
            assert still == [expert not in chosen for expert in range(EXPERTS)], (name, stage)


def only_cut_matrices_travel() -> None:
    """Two collectives a step for a group, carrying just the foreign pieces and scales."""
    for stage in (1, 2, 3):
        engine = start(config(stage=stage))
        exchanges = list(matrix_optimizer(engine).matrix_map.exchanges.values())  # type: ignore[attr-defined]
        train(engine, range(1))
        sent: list[int] = []
        with counted_all_to_all(sent):
            train(engine, range(1, 2))
        assert len(exchanges) == 1 and len(sent) == 2
        plan = exchanges[0].plan
        assert len(plan.cut) == len(MATRICES) if stage == 3 else len(plan.cut) < len(MATRICES)
        assert sum(sent) == plan.bytes_sent(dist.get_rank())
        total = torch.tensor(float(sum(sent)))
        dist.all_reduce(total)
        # To the owner and back, at most all of a cut matrix but its owner's piece, and a scale.
        foreign = [p for i in plan.cut for p in plan.layout.pieces(i) if p.rank != plan.owners[i]]
        assert total == 4 * sum(2 * piece.length + 1 for piece in foreign)


def random_layouts_are_exchanged_exactly() -> None:
    """Shapes, cuts, buckets and strategies at random, over real collectives."""
    for seed in range(60):
        draw = random.Random(seed)
        world_size, rank = dist.get_world_size(), dist.get_rank()
        shapes = [(draw.randint(1, 9), draw.randint(1, 9)) for _ in range(draw.randint(1, 6))]
        matrices = [Matrix("tall" if m >= n else "wide", m, n) for m, n in shapes for _ in range(2)]
        if draw.random() < 0.5:
            chunks = [-(-m.numel // world_size) + draw.randint(0, 2) for m in matrices]
            layout = chunked_layout(matrices, chunks, world_size)
        else:
            offsets = [0, *accumulate(m.numel + draw.randint(0, 3) for m in matrices)]
            size = -(-offsets.pop() // world_size) + draw.randint(0, 4)
            layout = contiguous_layout(matrices, offsets, size, world_size)
        chosen = ExchangeSettings(
            exchange_bucket_size=draw.choice([1, 4000, 2**29]),
            exchange_strategy=draw.choice([{}, {"tall": "gram"}]),
        )
        numbers = torch.Generator().manual_seed(seed)
        wholes = [torch.randn(m.rows, m.columns, generator=numbers) for m in matrices]
        slice_ = torch.full((layout.slice_size,), torch.nan)  # padding must not be touched
        for index, whole in enumerate(wholes):
            if piece := layout.piece(index, rank):
                slice_[piece.in_slice] = whole.flatten()[piece.matrix_start : piece.matrix_stop]
        oracle = Eigh()
        exchange = Exchange(make_plan(layout, oracle, chosen), dist.group.WORLD)

        def rule(x: Tensor, across: RowShards, oracle: Eigh = oracle) -> tuple[Tensor, Tensor]:
            polar = oracle(x, across)
            return polar, nuclear_norm(x, polar, across)

        found = torch.full_like(slice_, torch.nan)
        for update in exchange(found, slice_, rule):
            update.target(found).copy_(update.direction * update.scale)
        for index, whole in enumerate(wholes):
            polar, norm = rule(whole, WHOLE)
            if piece := layout.piece(index, rank):
                expected = (polar * norm).flatten()[piece.matrix_start : piece.matrix_stop]
                torch.testing.assert_close(found[piece.in_slice], expected, rtol=1e-4, atol=1e-4)


def transient_bytes_are_bounded() -> None:
    """Exchange and rule together stay within the bucket, or within 12 copies of one matrix."""
    shapes = [(96, 96)] * 12 + [(256, 96)] * 6 + [(96, 256)] * 3
    matrices = [Matrix(str(i), *shape) for i, shape in enumerate(shapes)]
    chunks = [-(-m.numel // dist.get_world_size()) for m in matrices]
    layout = chunked_layout(matrices, chunks, dist.get_world_size())
    direction = torch.randn(layout.slice_size)
    oracle = PolarExpress(dtype=torch.float32)

    def rule(x: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
        return swan_direction(x, oracle, across), x.new_ones(len(x))

    for bucket in (1, 12 * 4 * 60_000, 2**29):
        chosen = ExchangeSettings(exchange_bucket_size=bucket)
        exchange = Exchange(make_plan(layout, oracle, chosen), dist.group.WORLD)
        param = torch.zeros(layout.slice_size)
        with LiveStorages() as live:
            for update in exchange(param, direction, rule):
                update.target(param).sub_(update.direction.mul_(update.scale))
        planned = exchange.plan.peak_bytes(dist.get_rank())
        largest = 12 * 4 * max(matrix.numel for matrix in matrices)
        assert 0 < live.peak <= planned <= max(bucket, largest), (live.peak, planned, bucket)
        assert param.all()


def more_ranks_than_matrices() -> None:
    """One matrix cut over every rank, and ranks whose slice is nothing but padding."""
    for shape, stage in (((9, 11), 2), ((2, 3), 2), ((9, 11), 3), ((2, 1), 3)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
        matrix = model[0].weight
        start_weight = matrix.detach().double().numpy().copy()
        inputs = torch.randn(40, shape[1], generator=torch.Generator().manual_seed(dist.get_rank()))
        params = {**POLAR, "include": ["0.weight"]}
        engine = start(config(params=params, stage=stage), model=model)
        engine.backward(engine(inputs).square().sum())
        gradient = safe_get_full_grad(matrix).double().numpy()
        engine.step()
        reference = Reference(Rule("PolarGrad", lr=0.1, momentum=0.8), start_weight)
        reference.step(gradient)
        found = weights(engine)["0.weight"].double().numpy()
        np.testing.assert_allclose(found, reference.weight, rtol=1e-4, atol=1e-5)


def resume_is_bit_equal() -> None:
    """Save, build anew, load, go on: the same bits as a run that was never broken."""
    half = {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    settings = [
        *((name, params, {"stage": stage}) for stage in (0, 1, 2)
          for name, params in (("SWAN", SWAN_PARAMS), ("PolarGrad", POLAR), ("MuonPower", {}))),
        ("PolarGrad", POLAR, {"stage": 1, **half}),
        ("SWAN", SWAN_PARAMS, {"stage": 2, "bf16": {"enabled": True}}),
        ("PolarGrad", POLAR, {"stage": 0, "bf16": {"enabled": True}}),
        ("AdamPower", {}, {"stage": 2}),
    ]  # fmt: skip
    for name, params, extra in settings:
        unbroken = start(config(name, params, **extra))
        train(unbroken, range(2))
        with _shared_folder() as folder:
            unbroken.save_checkpoint(folder, tag="half")
            train(unbroken, range(2, 4))
            resumed = start(config(name, params, **extra), model=build_model(seed=7))
            resumed.load_checkpoint(folder)
        train(resumed, range(2, 4))
        assert_same(weights(unbroken), weights(resumed))
        assert_same(_state(unbroken), _state(resumed))


def a_foreign_checkpoint_is_refused() -> None:
    """PolarGrad's momentum is not resumed by SWAN; AdamW's state not by AdamPower."""
    adamw = {"lr": 1e-3, "torch_adam": True}
    for saved, params, loaded, message in (
        ("PolarGrad", POLAR, "SWAN", "saved by PolarGrad, not by SWAN"),
        ("AdamW", adamw, "AdamPower", "does not say which parameters it holds"),
    ):
        engine = start(config(saved, params))
        train(engine, range(1))
        with _shared_folder() as folder:
            engine.save_checkpoint(folder, tag="other")
            other = start(config(loaded, {"lr": 0.1}))
            _assert_raises(ValueError, message, lambda: other.load_checkpoint(folder))


@contextmanager
def _shared_folder() -> Any:
    """One temporary folder for all ranks."""
    with tempfile.TemporaryDirectory() as own:
        path = [own]
        dist.broadcast_object_list(path, src=0)
        yield path[0]
        dist.barrier()


def _assert_raises(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    try:
        call()
    except error as raised:
        assert message in str(raised), raised
    else:
        raise AssertionError(f"{error.__name__} with {message!r} was not raised")


def unsupported_settings_are_refused() -> None:
    """By name, whether the optimizer comes from the JSON or from the user."""
    nvme = {"offload_optimizer": {"device": "nvme", "nvme_path": "/nowhere"}}
    model = build_model()
    for settings, message in (
        (config(zero=nvme, stage=3), '"device": "nvme"'),
        (config("AdamPower", {}, zero={"zero_hpz_partition_size": 2}, stage=3), "hpz"),
        (config(zero={"elastic_checkpoint": True}), "elastic_checkpoint"),
        (config(sequence_parallel_size=dist.get_world_size()), '"sequence_parallel_size": > 1'),
        (config("SWAN", {}, stage=3, bf16={
            "enabled": True, "bf16_master_weights_and_grads": True,
        }), "bf16_master_weights_and_grads"),
    ):  # fmt: skip
        _assert_raises(NotImplementedError, message, lambda: start(settings))
    mine = SWAN(matrix_param_groups(model))
    _assert_raises(
        NotImplementedError,
        "elastic_checkpoint",
        lambda: start(config(None, zero={"elastic_checkpoint": True}), model=model, optimizer=mine),
    )


def zero_init_hides_no_matrix() -> None:
    """Its placeholders have no shape; an optimizer built from them still knows the matrices."""
    with deepspeed.zero.Init():
        model = TinyLM()
    names = {param: name for name, param in model.named_parameters()}
    by_rule = {
        group["rule"]: {names[param] for param in group["params"]}
        for group in matrix_param_groups(model)
    }
    assert by_rule == {"matrix": MATRICES, "aux": set(names.values()) - MATRICES}


def strategies_that_cannot_work_are_refused() -> None:
    """A pattern without a match, a wide matrix, and an oracle that needs all rows."""
    for strategy, oracle, message in (
        ({"*.sideways.*": "gram"}, "eigh", "matches no matrix"),
        ({"*.odd.weight": "gram"}, "eigh", "odd.weight' is 7 x 23"),
        ({"*.up.weight": "gram"}, "svd", "'svd' does not"),
    ):
        params = {**POLAR, "oracle": oracle, "exchange_strategy": strategy}
        _assert_raises(ValueError, message, lambda: start(config(params=params, stage=3)))


def an_untested_base_is_refused() -> None:
    """GradPower is no way around DeepSpeed's own question about unknown optimizers."""

    class Unknown(torch.optim.SGD):
        pass

    model = build_model()
    mine = GradPower(Unknown(model.parameters(), lr=0.1))
    _assert_raises(
        NotImplementedError,
        "base Unknown is untested under ZeRO",
        lambda: start(config(None), model=model, optimizer=mine),
    )
    other = build_model()
    start(
        config(None, zero_allow_untested_optimizer=True),
        model=other,
        optimizer=GradPower(Unknown(other.parameters(), lr=0.1)),
    )


def mistakes_in_the_json_are_explained() -> None:
    """The registry's errors come through deepspeed.initialize."""
    _assert_raises(
        ValueError, "valid: alpha", lambda: start(config("SWAN", {"learning_rate": 0.1}))
    )
    _assert_raises(
        ValueError, "matches no parameter", lambda: start(config("SWAN", {"exclude": ["heads.*"]}))
    )


def other_optimizers_are_untouched() -> None:
    """A config that names torch's or DeepSpeed's optimizers takes DeepSpeed's own path."""
    engine = start(config("SGD", {"lr": 0.1}, zero_allow_untested_optimizer=True))
    assert type(engine.basic_optimizer) is torch.optim.SGD
    muon = start(config("Muon", {"lr": 0.01}, zero={"reduce_scatter": False}))
    assert type(muon.basic_optimizer).__module__.startswith("deepspeed.")
    _assert_raises(
        AssertionError, "untested ZeRO Optimizer", lambda: start(config("SGD", {"lr": 1.0}))
    )


def frozen_parameters_stay() -> None:
    """Parameters without gradients are in no group and do not move."""
    for stage in (2, 3):
        model = build_model()
        model.blocks[0].square.weight.requires_grad_(False)
        engine = start(config("SWAN", SWAN_PARAMS, stage=stage), model=model)
        before = weights(engine)
        train(engine, range(1))
        moved = {n for n, w in weights(engine).items() if not torch.equal(w, before[n])}
        assert moved == set(before) - {"blocks.0.square.weight"}


def masters_follow_in_half_precision() -> None:
    """Small steps are not lost in bf16: they add up in the fp32 masters."""
    params = {**SWAN_PARAMS, "lr": 1e-3, "aux": {**AUX, "lr": 1e-6}}
    engine = start(config("SWAN", params, bf16={"enabled": True}))
    matrix = engine.module.blocks[0].square.weight
    before = safe_get_full_fp32_param(matrix).clone()
    train(engine, range(2))
    assert 0 < (safe_get_full_fp32_param(matrix) - before).abs().max() < 1e-3


TESTS: tuple[Callable[[], None], ...] = (
    a_skipped_step_moves_nothing,
    power_sees_the_averaged_gradient_once,
    schedulers_keep_the_ratio,
    objects_and_callables_equal_json,
    groups_keep_their_settings,
    one_oracle_call_per_matrix_and_step,
    every_expert_gets_one_oracle_call,
    idle_experts_do_not_move,
    only_cut_matrices_travel,
    random_layouts_are_exchanged_exactly,
    transient_bytes_are_bounded,
    more_ranks_than_matrices,
    resume_is_bit_equal,
    a_foreign_checkpoint_is_refused,
    unsupported_settings_are_refused,
    zero_init_hides_no_matrix,
    strategies_that_cannot_work_are_refused,
    an_untested_base_is_refused,
    mistakes_in_the_json_are_explained,
    other_optimizers_are_untouched,
    frozen_parameters_stay,
    masters_follow_in_half_precision,
)


def main() -> None:
    """Run every test; a failure on any rank is reported with its traceback."""
    torch.set_num_threads(1)
    get_accelerator().is_fp16_supported = lambda: True  # emulated, see exactness_worker
    # A rank whose test failed goes on; the others must not wait in its collectives for long.
    limit = timedelta(seconds=120)
    deepspeed.init_distributed(dist_backend="gloo", verbose=False, timeout=limit)
    results: dict[str, list[str]] = {}
    for test in TESTS:
        try:
            test()
            failure = ""
        except Exception:
            failure = traceback.format_exc()
            print(failure, flush=True)  # the other ranks may wait for this one for ever
        failures: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(failures, failure)
        results[test.__name__] = [text for text in failures if text]
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    end_process()
