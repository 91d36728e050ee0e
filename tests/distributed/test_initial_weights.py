"""What engines say of the weights they start from; see ``test_initial_weights.py``."""

import logging
from collections.abc import Callable
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from gradopt_ds.integration import hook
from gradopt_ds.integration.zero.slicing import ZeroSlice, read_slices
from tests.distributed.engines import SWAN_PARAMS, config, start, train
from tests.distributed.harness import distributed
from tests.distributed.model import build_model

PARTITIONED = {"stage3_param_persistence_threshold": 0}
LLAMA = LlamaConfig(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
)


@distributed(2, 3)
def test_nan_in_a_weight_is_named() -> None:
    """Every rank says so, though one alone holds it; the layout is not to blame."""
    for stage, extra in ((1, {}), (2, {"bf16": {"enabled": True}}), (3, {"zero": PARTITIONED})):
        model = build_model()
        with torch.no_grad():
            model.blocks[0].up.weight[0, 0] = torch.nan  # the first element: on rank 0
            model.blocks[1].odd.weight[-1, -1] = torch.nan
        said = _said_on_all_ranks(ValueError, config(stage=stage, **extra), model)
        assert "hold NaN before the first step: blocks.0.up.weight, blocks.1.odd.weight." in said
        assert "layout" not in said


@distributed(2, 3)
def test_wrong_slices_are_reported_with_their_ranks() -> None:
    """The last rank has one element wrong, and another rank's infinity is no NaN."""
    last = dist.get_world_size() - 1

    def with_a_wrong_element(wrapper: Any, optimizer: Any) -> list[ZeroSlice]:
        slices = read_slices(wrapper, optimizer)
        if dist.get_rank() == last:
            slices[0].tensor.data[0] += 1
        return slices

    for stage in (1, 2, 3):
        hook.read_slices = with_a_wrong_element
        try:
            settings = config(stage=stage, zero=PARTITIONED if stage == 3 else {})
            said = _said_on_all_ranks(RuntimeError, settings, build_model())
        finally:
            hook.read_slices = read_slices
        assert f"(rank {last}: 'blocks." in said and said.count("rank ") == 1, said
        assert "report it" in said


@distributed(2, 3)
def test_infinities_are_no_layout_fault() -> None:
    """A mask in a weight, say: the slices hold what they should, and training may begin."""
    model = build_model()
    with torch.no_grad():
        model.blocks[0].up.weight[0, 0] = torch.inf
    start(config(stage=3, zero=PARTITIONED), model=model)


@distributed(2, 3)
def test_a_llama_under_zero_init_is_warned_of() -> None:
    """Until it is built as docs/zero.md says; then its first loss is log(vocabulary)."""
    settings = config("SWAN", SWAN_PARAMS, stage=3, zero=PARTITIONED)

    def under_zero_init() -> LlamaForCausalLM:
        with deepspeed.zero.Init(config_dict_or_path=settings):
            return LlamaForCausalLM(LLAMA)

    def initialised() -> LlamaForCausalLM:
        model = under_zero_init()
        for module in model.modules():
            own = list(module.parameters(recurse=False))
            with deepspeed.zero.GatheredParameters(own, modifier_rank=0):
                model._init_weights(module)
        return model

    builders: tuple[tuple[Callable[[], LlamaForCausalLM], bool], ...] = (
        (under_zero_init, True),
        (initialised, False),
        (lambda: LlamaForCausalLM(LLAMA), False),
    )
    for build, is_warned_of in builders:
        torch.manual_seed(dist.get_rank())
        warnings = _Warnings()
        logging.getLogger("gradopt_ds").addHandler(warnings)
        engine = start(settings, model=build())
        logging.getLogger("gradopt_ds").removeHandler(warnings)
        expected = ["model.embed_tokens.weight"] * (is_warned_of and dist.get_rank() == 0)
        assert [record.args[0] for record in warnings.records] == expected  # type: ignore[index]
        tokens = torch.arange(64)[None]
        loss = float(engine(input_ids=tokens, labels=tokens).loss)
        assert (abs(loss - torch.tensor(300.0).log()) < 0.3) is not is_warned_of, loss
        engine.destroy()


class _Warnings(logging.Handler):
    """Keeps records of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _said_on_all_ranks(error: type[Exception], settings: dict[str, Any], model: Any) -> str:
    """The message of an error that every rank raises, in the same words."""
    said = ""
    try:
        start(settings, model=model)
    except error as raised:
        said = str(raised)
    everywhere: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(everywhere, said)
    assert said and set(everywhere) == {said}, everywhere
    return said


@distributed(2, 3)
def test_training_goes_on_after_a_refusal() -> None:
    """No rank is left behind in a collective."""
    engine = start(config(stage=2))
    train(engine, range(1))
    assert engine.was_step_applied()
