import json
import re
from pathlib import Path
from typing import Any

import pytest

from gradopt_ds.integration.config_keys import refuse_unknown_config_keys

CONFIGS = sorted((Path(__file__).parents[3] / "configs/deepspeed").glob("*.json"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_to_copy_pass(path: Path) -> None:
    refuse_unknown_config_keys(json.loads(path.read_text()))


def test_keys_of_deepspeeds_documentation_pass() -> None:
    """Each of them does something."""
    refuse_unknown_config_keys(
        {
            "train_batch_size": 8,
            "train_micro_batch_size_per_gpu": 4,
            "gradient_accumulation_steps": 1,
            "optimizer": {"type": "SWAN", "params": {}, "legacy_fusion": False},
            "scheduler": {"type": "WarmupLR", "params": {}},
            "communication_data_type": "fp32",
            "prescale_gradients": False,
            "gradient_predivide_factor": 1.0,
            "gradient_clipping": 1.0,
            "fp16": {"enabled": False, "loss_scale": 0},
            "bf16": {"enabled": True},
            "torch_autocast": {"enabled": False, "dtype": "bfloat16"},
            "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10,
            "wall_clock_breakdown": False,
            "dump_state": False,
            "aio": {"block_size": 1048576, "queue_depth": 8},
            "flops_profiler": {"enabled": False, "profile_step": 1},
            "activation_checkpointing": {"partition_activations": False, "profile": False},
            "tensorboard": {"enabled": True},
            "wandb": {"enabled": False},
            "csv_monitor": {"enabled": False},
            "comms_logger": {"enabled": False},
            "checkpoint": {"load_universal": True, "use_node_local_storage": False},
            "data_types": {"grad_accum_dtype": "fp32"},
            "dataloader_drop_last": True,
            "autotuning": {"enabled": False},
            "data_efficiency": {"enabled": False},
            "compile": {"deepcompile": False},
            "tensor_parallel": {"autotp_size": 1},
            "sequence_parallel_size": 1,
            "_comment": "mine",
            "// why": "mine",
        }
    )


@pytest.mark.parametrize(
    "config",
    [
        {"zero_optimization": True, "allgather_size": 500000000},
        {"aio": {"block_size": 1048576, "queue_depth": 8, "thread_count": 1}},  # Lightning's
        {"tensor_parallel": {"autotp_size": 1}, "inference": {}},  # transformers'
    ],
)
def test_keys_that_others_read_and_write_pass(config: dict[str, Any]) -> None:
    refuse_unknown_config_keys(config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"zero_optimisation": {"stage": 2}}, "'zero_optimisation'.*mean 'zero_optimization'"),
        ({"bf_16": {"enabled": True}}, "'bf_16'.*mean 'bf16'"),
        ({"gradient_cliping": 1.0}, "mean 'gradient_clipping'"),
        ({"load_universal": True}, "'load_universal': the key belongs in 'checkpoint'"),
        ({"optimizer": {"type": "SWAN", "param": {}}}, "'optimizer.param'.*mean 'params'"),
        ({"checkpoint": {"universal": True}}, "'checkpoint.universal'"),
        ({"data_types": {"steps_per_print": 1}}, "the key belongs at the top"),
        ({"xyzzy": 1}, "no key 'xyzzy' and would ignore it: remove it"),
    ],
)
def test_what_would_be_ignored_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        refuse_unknown_config_keys(config)


def test_all_of_them_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=re.compile("xyzzy.*foo")):
        refuse_unknown_config_keys({"xyzzy": 1, "optimizer": {"foo": 1}})
