import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain import deepspeed_json
from gradopt_ds.experiments.pretrain.json_values import refuse_unparsable
from gradopt_ds.experiments.pretrain.settings import RunSettings

Make = Callable[..., RunSettings]
ADAM = {"optimizer": {"type": "AdamW"}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"gradient_clipping": math.nan}, "'gradient_clipping' must be a finite number.*got nan"),
        ({"gradient_clipping": -1}, "'gradient_clipping' must be .* at least 0, got -1"),
        ({"gradient_clipping": "much"}, "got 'much'"),
        ({"gradient_clipping": True}, "got True"),
        ({"train_batch_size": "8"}, "'train_batch_size' must be an integer of at least 1, got '8'"),
        ({"train_micro_batch_size_per_gpu": 2.5}, "got 2.5"),
        ({"gradient_accumulation_steps": None}, "got None"),
        ({"steps_per_print": 0}, "'steps_per_print' must be"),
        ({"sequence_parallel_size": 2}, "'sequence_parallel_size' is not supported: remove it"),
        ({"optimizer": {"type": "AdamW", "params": ["lr"]}}, r"'optimizer.params' must .*\['lr'\]"),
    ],
)
def test_a_value_that_would_not_do_what_it_says(
    make: Make, changes: dict[str, Any], complaint: str
) -> None:
    settings = make()
    settings.deepspeed_config.write_text(json.dumps({**ADAM, **changes}))
    with pytest.raises(PretrainError, match=complaint):
        deepspeed_json.read(settings, ranks=1)


@pytest.mark.parametrize("block", ["zero_optimization", "bf16", "optimizer"])
@pytest.mark.parametrize("value", [["enabled"], "on"])
def test_a_block_of_another_type_is_refused_with_the_files_name(block: str, value: object) -> None:
    config = {**ADAM, "train_batch_size": 1, block: value}
    with pytest.raises(PretrainError, match="a.json: DeepSpeed cannot read it: "):
        refuse_unparsable(config, "a.json")


def test_parsing_leaves_the_json_alone() -> None:
    params = {"lr": 1e-3, "max_grad_norm": 1.0}  # which DeepSpeed would set to zero
    config = {"optimizer": {"type": "AdamW", "params": params}, "train_batch_size": 1}
    before = json.dumps(config)
    refuse_unparsable(config, "a.json")
    assert json.dumps(config) == before


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Optimizer"])
def test_what_cannot_step_under_deepspeed_is_no_name(name: str) -> None:
    assert name not in deepspeed_json.optimizer_names()
    assert not deepspeed_json.is_known_optimizer(name)


def test_the_nearest_name_is_looked_for_in_any_case(make: Make) -> None:
    settings = make(override=("optimizer.type=swam",))
    with pytest.raises(PretrainError, match=r"'swam', which there is not \(did you mean SWAN\?\)"):
        deepspeed_json.read(settings, ranks=1)
