import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradopt_ds.experiments.pretrain import deepspeed_json
from gradopt_ds.experiments.pretrain.definition import Changes, Definition, changes, definition
from gradopt_ds.experiments.pretrain.settings import RunSettings

Make = Callable[..., RunSettings]
WORDS = {"a": 0, "b": 1}


def defined(settings: RunSettings, ranks: int = 2) -> Definition:
    return definition(settings, deepspeed_json.read(settings, ranks), ranks, WORDS)


def changed(make: Make, step: int = 100, before: Any = None, **after: Any) -> Changes:
    return changes(defined(make(**(before or {}))), defined(make(**after)), step)


def test_nothing_changes_by_itself_nor_with_housekeeping(make: Make, tmp_path: Path) -> None:
    assert changed(make) == Changes()
    housekeeping = {"output": tmp_path / "x", "save_every": 7, "keep": 9, "tensorboard": False}
    assert changed(make, resume="must", accept_changes=True, **housekeeping) == Changes()


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        ({"sequence_length": 64}, "--sequence-length was 128 and is 64"),
        ({"seed": 3}, "--seed was 0 and is 3"),
        ({"shuffle_buffer": 9}, "--shuffle-buffer was 1024 and is 9"),
    ],
)
def test_the_order_of_the_data_never_changes(make: Make, after: Any, sentence: str) -> None:
    assert changed(make, **after) == Changes(fixed=[sentence])


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        ({"steps": 600, "warmup_steps": 30}, "--steps was 300 and is 600"),
        ({"warmup_steps": 31}, "--warmup-steps was 30 and is 31"),
        ({"schedule": "wsd"}, "--schedule was 'cosine' and is 'wsd'"),
        (
            {"override": ("optimizer.params.lr=0.5",)},
            "DeepSpeed JSON: optimizer.params.lr was 0.001 and is 0.5",
        ),
        (
            {"override": ("optimizer.params.weight_decay=0.5",)},
            "DeepSpeed JSON: optimizer.params.weight_decay was not set and is 0.5",
        ),
        (
            {"override": ("gradient_clipping=1",)},
            "DeepSpeed JSON: gradient_clipping was not set and is 1",
        ),
        (
            {"override": ("zero_optimization.stage=2",)},
            "DeepSpeed JSON: zero_optimization.stage was not set and is 2",
        ),
        (
            {"train_batch": 4, "micro_batch": 1, "accumulation": 2},
            "DeepSpeed JSON: train_batch_size was 2 and is 4",
        ),
    ],
)
def test_what_bends_the_trace_is_named(make: Make, after: Any, sentence: str) -> None:
    result = changed(make, **after)
    assert (result.fixed, result.trace) == ([], [sentence])


def test_what_only_reorders_additions_is_said(make: Make) -> None:
    before = {"train_batch": 8, "micro_batch": 4}
    result = changed(make, before=before, train_batch=8, micro_batch=2, validate_every=7)
    assert (result.fixed, result.trace) == ([], [])
    assert sorted(result.said) == [
        "--validate-every was 30 and is 7",
        "DeepSpeed JSON: gradient_accumulation_steps was 1 and is 2",
        "DeepSpeed JSON: train_micro_batch_size_per_gpu was 4 and is 2",
    ]


def test_a_constant_schedule_may_go_on_past_its_end(make: Make) -> None:
    before = {"schedule": "constant", "steps": 100}
    longer = {"schedule": "constant", "steps": 200, "validate_every": 10}
    result = changed(make, 100, before, **longer)
    assert result.trace == []
    # The steps before were not warmed up as the new settings say.
    assert result.past == ["--warmup-steps was 10 and is 20"]
    assert changed(make, 100, before, **longer, warmup_steps=10).past == []
    in_warmup = changed(make, 5, before, **longer)
    assert in_warmup.trace == ["--steps was 100 and is 200", "--warmup-steps was 10 and is 20"]


def test_files_count_by_their_contents(make: Make, tmp_path: Path) -> None:
    text, model = tmp_path / "text.txt", tmp_path / "model.json"
    text.write_text("to be\n\nor not to be\n")
    before = defined(make(data=str(text)))
    text.write_text("to be\n\nor not to me\n")
    smaller = {**json.loads(model.read_text()), "hidden_size": 64}
    model.write_text(json.dumps(smaller))
    result = changes(before, defined(make(data=str(text))), 1)
    assert result.fixed[0].startswith("content of --data was ")
    assert result.fixed[1] == "model JSON: hidden_size was 128 and is 64"
    copied = tmp_path / "elsewhere" / "text.txt"
    copied.parent.mkdir()
    copied.write_text(text.read_text())
    moved = changes(defined(make(data=str(text))), defined(make(data=str(copied))), 1)
    assert moved == Changes()
