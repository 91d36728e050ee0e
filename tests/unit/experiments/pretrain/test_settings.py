import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradopt_ds.experiments.common.command_line import arguments
from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain import deepspeed_json
from gradopt_ds.experiments.pretrain.command_line import parse
from gradopt_ds.experiments.pretrain.settings import RunSettings

Make = Callable[..., RunSettings]


def test_a_command_line_gives_its_settings_again(make: Make) -> None:
    for values in ({}, {"steps": 7, "override": ("a=1", "b.c=x"), "tensorboard": False, "seed": 3}):
        settings = make(**values)
        assert parse(arguments(settings)) == settings


def test_the_launchers_local_rank_is_let_pass(make: Make) -> None:
    settings = make()
    assert parse(["--local_rank=1", *arguments(settings)]) == settings


@pytest.mark.parametrize(
    ("flag", "value", "complaint"),
    [
        ("--steps", "0", "--steps: .*greater than or equal to 1"),
        ("--warmup-steps", "999", "exceeds steps"),
        ("--model", "nowhere.json", "is not a file"),
        ("--override", "nothing", "KEY=VALUE"),
        ("--output", "", "--output: the path is empty"),
        ("--data", "", "--data: .*at least 1 character"),
        ("--seed", str(2**64), "--seed: .*less than"),
    ],
)
def test_a_wrong_value_names_its_flag(make: Make, flag: str, value: str, complaint: str) -> None:
    with pytest.raises(PretrainError, match=complaint):
        parse([*arguments(make()), flag, value])


def test_help_tells_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    printed = capsys.readouterr().out
    for name in RunSettings.model_fields:
        assert name.replace("_", "-") in printed or name in printed
    assert "deepspeed --num_gpus 2 scripts/pretrain.py" in printed


def test_the_fingerprint_follows_what_is_learned_only(make: Make, tmp_path: Path) -> None:
    first = make().fingerprint(2)
    assert make(output=tmp_path / "elsewhere", keep=5).fingerprint(2) == first
    assert make(seed=1).fingerprint(2) != first
    assert make().fingerprint(1) != first
    config = tmp_path / "deepspeed.json"
    config.write_text(config.read_text().replace("0.001", "0.002"))
    assert make().fingerprint(2) != first


KEYS = (deepspeed_json.TRAIN, deepspeed_json.MICRO, deepspeed_json.ACCUMULATION)


@pytest.mark.parametrize(
    ("file", "values", "ranks", "wanted"),
    [
        ((16, 8, None), {}, 2, (16, 8, 1)),
        ((16, 8, None), {}, 1, (16, 8, 2)),
        ((16, 8, 1), {}, 1, (16, 8, 2)),
        ((16, None, None), {}, 2, (16, 8, 1)),
        ((None, 4, 2), {}, 2, (16, 4, 2)),
        ((None, None, None), {}, 3, (3, 1, 1)),
        ((16, 8, None), {"micro_batch": 2}, 2, (16, 2, 4)),
        ((16, 8, None), {"accumulation": 4}, 2, (16, 2, 4)),
        ((16, 8, None), {"train_batch": 32}, 2, (32, 8, 2)),
        ((16, 8, None), {"micro_batch": 3, "accumulation": 2}, 3, (18, 3, 2)),
    ],
)
def test_batch_sizes_fit_the_ranks(
    make: Make,
    file: tuple[int | None, ...],
    values: dict[str, int],
    ranks: int,
    wanted: tuple[int, ...],
) -> None:
    config = {key: value for key, value in zip(KEYS, file, strict=True) if value}
    sizes = deepspeed_json.batch_sizes(config, make(**values), ranks)
    assert tuple(sizes[key] for key in KEYS) == wanted


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"micro_batch": 5}, "cannot be cut"),
        ({"micro_batch": 64}, "cannot be cut"),
        ({"micro_batch": 4, "accumulation": 1, "train_batch": 9}, "leave one of the three out"),
    ],
)
def test_batch_sizes_that_do_not_fit(make: Make, values: dict[str, int], complaint: str) -> None:
    with pytest.raises(PretrainError, match=complaint):
        deepspeed_json.batch_sizes({"train_batch_size": 16}, make(**values), ranks=2)


def test_overrides_reach_into_the_json(make: Make) -> None:
    settings = make(
        override=("optimizer.params.lr=0.5", "bf16.enabled=true", "zero_optimization.y=word")
    )
    config = deepspeed_json.read(settings, ranks=2)
    assert config["optimizer"]["params"]["lr"] == 0.5
    assert config["bf16"] == {"enabled": True}
    assert config["zero_optimization"] == {"y": "word"}


ADAM = {"optimizer": {"type": "AdamW"}}


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ({}, "names no optimizer"),
        ({"optimizer": {"type": "AdamW"}, "scheduler": {}}, "remove the block"),
        (
            {"optimizer": {"type": "SWAN"}, "tensor_parallel": {"autotp_size": 2}},
            "autotp_size of 2.* must read the same: remove the block",
        ),
        ({**ADAM, "checkpoint": {"writer": {"type": "fast", "decoupled": True}}}, "background"),
        ({**ADAM, "datastates_ckpt": {"host_cache_size": 16}}, "background"),
    ],
)
def test_a_json_that_cannot_be_run(
    make: Make, tmp_path: Path, file: dict[str, Any], complaint: str
) -> None:
    settings = make()
    settings.deepspeed_config.write_text(json.dumps(file))
    with pytest.raises(PretrainError, match=complaint):
        deepspeed_json.read(settings, ranks=1)
