"""Pipeline stages: rules, tables and refusals are those of the whole model, on all ranks."""

import logging
from typing import Any

import deepspeed
import torch
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from torch import Tensor, nn

from gradopt_ds import SWAN, matrix_param_groups
from tests.distributed.engines import assert_raises
from tests.distributed.harness import distributed
from tests.distributed.model import HIDDEN, VOCABULARY, Block
from tests.distributed.pipeline_cases import IN_FP32, PipelineCase
from tests.distributed.pipeline_model import (
    MATRICES,
    MODELS,
    OneProcess,
    batches,
    build_stages,
    loss,
    project,
)
from tests.distributed.test_pipeline import matrices_of, start, weights_of, whole_model

SWAN_1 = PipelineCase("untied", "SWAN", 1)


@distributed(2)
def test_rules_do_not_depend_on_the_stage() -> None:
    """The head on the last stage is known by the embedding on the first; also tables count it."""
    for model in MATRICES:
        with Messages() as messages:
            engine = start(PipelineCase(model, "SWAN", 1))
        stages = whole_model(engine, dict.fromkeys(matrices_of(engine)))
        assert stages.keys() == MATRICES[model]
        if engine.global_rank > 0:
            assert not messages.text
        else:
            copies = len(MATRICES[model]) + (model == "tied matrix")
            assert f"{copies} of {copies} matrices lie whole" in messages.text
            rows = table(messages.text)
            matrices = [row for row in rows if row[1].strip() == "SWAN"]
            assert [int(row[3]) for row in matrices] == [len(MATRICES[model])]
            assert sum(int(row[2]) for row in rows) == len(
                list(OneProcess(MODELS[model]()).parameters())
            )
        engine.destroy()


@distributed(2)
def test_patterns_may_mean_another_stage() -> None:
    """Each stage takes the patterns of all; one that matches no stage is refused on both."""
    params = {
        "oracle": "eigh",
        "include": ["3.out.weight"],
        "exclude": ["1.up.weight"],
        "split": {"2.square.weight": 2},
        "exchange_strategy": {"2.up.weight": "owner"},
    }
    engine = start(SWAN_1, optimizer={"type": "SWAN", "params": params})
    stages = whole_model(engine, dict.fromkeys(matrices_of(engine)))
    assert stages.keys() == MATRICES["untied"] - {"1.up.weight"} | {"3.out.weight"}
    engine.destroy()
    for key, value, message in (
        ("include", ["9.*"], "'9.*' matches no parameter; the model has 0.weight"),
        ("include", ["2.norm.bias"], "'2.norm.bias' of shape (12,): only 2-D"),
        ("exchange_strategy", {"9.*": "owner"}, "'9.*' matches no matrix"),
        ("exclude", ["*"], "PipelineModule has no matrix for it"),
    ):
        changed = {"type": "SWAN", "params": {**params, key: value}}
        if key == "exclude":
            changed["params"] = {key: value}
        assert_raises(ValueError, message, lambda: start(SWAN_1, optimizer=changed))


@distributed(2)
def test_an_error_on_one_stage_ends_all() -> None:
    """The last stage alone is handed a parameter of another model."""
    module = build_stages("untied")
    parameters = list(module.parameters())
    if module.stage_id == 1:
        parameters.append(nn.Parameter(torch.ones(3, 5)))
    assert_raises(
        ValueError,
        "parameters of shapes (3, 5) are not parameters of PipelineModule",
        lambda: deepspeed.initialize(
            model=module, config=SWAN_1.config(), model_parameters=parameters
        ),
    )


@distributed(4)
def test_an_exchange_that_one_stage_cannot_plan_ends_all() -> None:
    """A matrix of the last stage is cut over its two ranks, and the oracle wants it whole."""
    params = {"oracle": "svd", "exchange_strategy": {"2.up.weight": "gram"}}
    assert_raises(
        ValueError,
        "'svd' does not",
        lambda: start(SWAN_1, optimizer={"type": "SWAN", "params": params}),
    )


class Scaled(nn.Module):
    """A tied layer with a parameter that is easily forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))
        self.bias = nn.Parameter(torch.zeros(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        """An affine map."""
        return x * self.weight + self.bias


class LearnedLoss(nn.Module):
    """A loss with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy at a temperature."""
        return loss(logits * self.temperature, labels)


def embedding(**more: Any) -> TiedLayerSpec:
    """One of two places of an embedding."""
    return TiedLayerSpec("embed", nn.Embedding, VOCABULARY, HIDDEN, **more)


def look_up(module: nn.Module, x: Tensor) -> Tensor:
    """What forward does."""
    return module(x)


@distributed(2)
def test_models_that_are_not_one_model_are_refused() -> None:
    """By name, on both stages, whichever has the fault."""
    shared, block, scaled = Block(), LayerSpec(Block), TiedLayerSpec("scaled", Scaled)
    first = LayerSpec(nn.Embedding, VOCABULARY, HIDDEN)
    head = LayerSpec(nn.Linear, HIDDEN, VOCABULARY)
    for layers, loss_fn, message in (
        ([first, block, LayerSpec(nn.Tanh), torch.tanh], loss, "stage 1 of 2 has no trainable"),
        ([first, block, block, head], LearnedLoss(), "loss_fn.temperature"),
        ([first, shared, shared, head], loss, "layers 1, 2 share a parameter"),
        ([first, scaled, block, scaled, head], loss, "'scaled' has parameters"),
        (
            [embedding(forward_fn=look_up), block, block, embedding(forward_fn=project)],
            loss,
            "'embed' has a forward_fn everywhere",
        ),
    ):
        module = PipelineModule(layers, num_stages=2, loss_fn=loss_fn, partition_method="uniform")
        assert_raises(
            ValueError,
            message,
            lambda: deepspeed.initialize(model=module, config=SWAN_1.config()),
        )


@distributed(2)
def test_settings_are_refused() -> None:
    """What is not held against one process is refused by name."""
    pure = {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    for case, more, message in (
        (PipelineCase("untied", "SWAN", 0, "fp16"), {}, '"fp16" or "bf16" at ZeRO stage 0'),
        (PipelineCase("untied", "SWAN", 0, "bf16"), {}, '"fp16" or "bf16" at ZeRO stage 0'),
        (SWAN_1, {"zero_optimization": {"stage": 1, "overlap_comm": True}}, "overlap_comm"),
        (
            SWAN_1,
            {"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}},
            'PipelineModule with "offload_optimizer"',
        ),
        (SWAN_1, {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, "torch_autocast"),
        (SWAN_1, {"sequence_parallel_size": 2}, '"sequence_parallel_size": > 1'),
        (SWAN_1, {"bf16": pure}, "bf16_master_weights_and_grads"),
        (SWAN_1, {"data_types": {"grad_accum_dtype": "bf16"}}, "grad_accum_dtype"),
    ):
        assert_raises(NotImplementedError, message, lambda: start(case, **more))
    module = build_stages("untied")
    mine = SWAN(matrix_param_groups(module))
    config = {key: value for key, value in SWAN_1.config().items() if key != "optimizer"}
    assert_raises(
        NotImplementedError,
        "PipelineModule with an optimizer object",
        lambda: deepspeed.initialize(model=module, config=config, optimizer=mine),
    )


@distributed(
    2,
    cases=[
        PipelineCase("tied", "PolarGrad", 1),
        PipelineCase("tied", "PolarGrad", 1, "fp16"),
        PipelineCase("tied", "PolarGrad", 1, "bf16", extra=IN_FP32),
    ],
)
def test_an_overflow_on_one_stage_skips_the_step_on_all(case: PipelineCase) -> None:
    """Weights stay, the next step is taken, and copies are equal after it."""
    engine = start(case)
    before = weights_of(engine)
    name = "3.square.weight"
    hooks = [
        param.register_hook(lambda gradient: gradient * torch.inf)
        for found, param in engine.module.named_parameters()
        if found == name
    ]
    engine.train_batch(batches(0, 1, 0))
    assert engine.skipped_steps == 1
    assert all(torch.equal(weight, before[n]) for n, weight in weights_of(engine).items())
    for hook in hooks:
        hook.remove()
    engine.optimizer.zero_grad()  # between two batches it discards nothing
    engine.train_batch(batches(1, 1, 0))
    assert engine.skipped_steps == 1
    assert not any(torch.equal(weight, before[n]) for n, weight in weights_of(engine).items())
    engine.destroy()


class Messages(logging.Handler):
    """What the library says while it is listened to."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.text += f"{record.getMessage()}\n"

    def __enter__(self) -> "Messages":
        logging.getLogger("gradopt_ds").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("gradopt_ds").removeHandler(self)


def table(text: str) -> list[list[str]]:
    """The rows of the table of rules, cell by cell."""
    rows = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    return [row for row in rows if row[2].strip().isdigit()]
