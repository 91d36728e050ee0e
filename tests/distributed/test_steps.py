"""What a step of a real engine does besides the arithmetic of ``test_exactness.py``."""

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from torch import nn

from gradopt_ds import PolarGrad, matrix_param_groups
from tests.distributed.engines import (
    POLAR,
    SWAN_PARAMS,
    Setting,
    assert_same,
    config,
    on_stages,
    start,
    state,
    train,
    weights,
)
from tests.distributed.harness import distributed
from tests.distributed.model import MATRICES, TinyLM, build_model, micro_batch
from tests.distributed.moe_model import EXPERTS, LAYER, build_moe
from tests.distributed.recipes import AUX, AUX_RULE
from tests.reference import Reference, Rule

IDLE = [
    Setting(name, stage, params)
    for stage in (0, 2, 3)
    for name, params in (("SWAN", SWAN_PARAMS), ("PolarGrad", POLAR), ("MuonPower", {"lr": 0.1}))
]


@distributed(2, 3, cases=on_stages(0, 1, 2, 3))
def test_a_skipped_step_moves_nothing(case: Setting) -> None:
    """fp16 overflow on one rank: no weight, momentum or AdamW step count changes anywhere."""
    fp16 = {"enabled": True, "initial_scale_power": 8, "hysteresis": 1}
    params = {**POLAR, "power": 1.2}
    engine = start(config(params=params, stage=case.stage, fp16=fp16))
    train(engine, range(1))
    state_before = state(engine)
    before, scale = weights(engine), engine.optimizer.loss_scale
    loss = engine(micro_batch(1, 0, dist.get_rank()))
    engine.backward(loss * (float("inf") if dist.get_rank() == 0 else 1.0))
    engine.step()
    assert engine.was_step_applied() is False and engine.optimizer.loss_scale < scale
    assert_same(before, weights(engine))
    assert_same(state_before, state(engine))
    train(engine, range(2, 3))
    assert not torch.equal(weights(engine)["embed.weight"], before["embed.weight"])
    engine.destroy()


@distributed(2, 3)
def test_power_sees_the_averaged_gradient_once() -> None:
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
        actual = weights(engine)[name] - before[name]
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=2e-7)


@distributed(2, 3)
def test_schedulers_keep_the_ratio() -> None:
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


@distributed(2, 3, cases=on_stages(0, 1, 2, 3))
def test_objects_and_callables_equal_json(case: Setting) -> None:
    """The three ways to name an optimizer take bit-equal steps, at every stage."""
    settings = config(None, stage=case.stage)
    by_name = start(case.config())
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


@distributed(2, 3)
def test_groups_keep_their_settings() -> None:
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


@distributed(2, 3)
def test_more_ranks_than_matrices() -> None:
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
        actual = weights(engine)["0.weight"].double().numpy()
        np.testing.assert_allclose(actual, reference.weight, rtol=1e-4, atol=1e-5)


@distributed(2, 3, cases=on_stages(2, 3, optimizer="SWAN", params=SWAN_PARAMS))
def test_frozen_parameters_stay(case: Setting) -> None:
    """Parameters without gradients are in no group and do not move."""
    model = build_model()
    model.blocks[0].square.weight.requires_grad_(False)
    engine = start(case.config(), model=model)
    before = weights(engine)
    train(engine, range(1))
    moved = {n for n, w in weights(engine).items() if not torch.equal(w, before[n])}
    assert moved == set(before) - {"blocks.0.square.weight"}


@distributed(2, 3)
def test_masters_follow_in_half_precision() -> None:
    """Small steps are not lost in bf16: they add up in the fp32 masters."""
    params = {**SWAN_PARAMS, "lr": 1e-3, "aux": {**AUX, "lr": 1e-6}}
    engine = start(config("SWAN", params, bf16={"enabled": True}))
    matrix = engine.module.blocks[0].square.weight
    before = safe_get_full_fp32_param(matrix).clone()
    train(engine, range(2))
    assert 0 < (safe_get_full_fp32_param(matrix) - before).abs().max() < 1e-3


@distributed(2, 3)
def test_zero_init_hides_no_matrix() -> None:
    """Its placeholders have no shape; an optimizer built from them still knows the matrices."""
    with deepspeed.zero.Init():
        model = TinyLM()
    names = {param: name for name, param in model.named_parameters()}
    by_rule = {
        group["rule"]: {names[param] for param in group["params"]}
        for group in matrix_param_groups(model)
    }
    assert by_rule == {"matrix": MATRICES, "aux": set(names.values()) - MATRICES}


@distributed(2, 3, cases=IDLE)
def test_idle_experts_do_not_move(case: Setting) -> None:
    """Not by a bit, at any stage, where no rank sent them a token; the others do."""
    engine = start(case.config(), model=build_moe())
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
        assert still == [expert not in chosen for expert in range(EXPERTS)], key
