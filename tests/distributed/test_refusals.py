"""What is refused, by which message, and what is left to DeepSpeed."""

import torch
from deepspeed.runtime.config import DeepSpeedConfigError

from gradopt_ds import SWAN, GradPower, matrix_param_groups
from tests.distributed.engines import POLAR, assert_raises, config, start
from tests.distributed.harness import distributed
from tests.distributed.model import build_model

QUANTIZED = (
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
)


@distributed(2, 3)
def test_unsupported_settings_are_refused() -> None:
    """By name, whether the optimizer comes from the JSON or from the user."""
    nvme = {"offload_optimizer": {"device": "nvme", "nvme_path": "/nowhere"}}
    model = build_model()
    for settings, message in (
        (config(zero=nvme, stage=3), '"device": "nvme"'),
        (config(zero=nvme, stage=2), "slices of no elements"),
        (config("AdamPower", {}, zero={"zero_hpz_partition_size": 2}), "below ZeRO stage 3"),
        (config(torch_autocast={"enabled": True, "dtype": "float16"}), "has the loss scale in it"),
        *(
            (config(zero={key: True}, stage=3), f'"{key}": true}} (DeepSpeed\'s quantizer is CUDA')
            for key in QUANTIZED
        ),
        (config(compile={"deepcompile": True}, stage=3), "passes are CUDA code"),
        (config(zero={"offload_optimizer": {"device": "cpu"}, "zenflow": {}}), "AdamW of its own"),
        (
            config(zero={"offload_optimizer": {"device": "cpu", "super_offload": True}}, stage=3),
            "CPUAdam of its own",
        ),
        (config(zero={"elastic_checkpoint": True}), "elastic_checkpoint"),
        (config("SWAN", {}, stage=3, bf16={
            "enabled": True, "bf16_master_weights_and_grads": True,
        }), "bf16_master_weights_and_grads"),
    ):  # fmt: skip
        assert_raises(NotImplementedError, message, lambda: start(settings))
    mine = SWAN(matrix_param_groups(model))
    assert_raises(
        NotImplementedError,
        "elastic_checkpoint",
        lambda: start(config(None, zero={"elastic_checkpoint": True}), model=model, optimizer=mine),
    )


@distributed(2)
def test_mics_is_refused_by_deepspeed() -> None:
    """It was removed; its keys end in an error."""
    assert_raises(
        DeepSpeedConfigError,
        "MiCS",
        lambda: start(config(stage=3, zero={"mics_shard_size": 2})),
    )


@distributed(2, 3)
def test_strategies_that_cannot_work_are_refused() -> None:
    """A pattern without a match, a wide matrix, and an oracle that needs all rows."""
    for strategy, oracle, message in (
        ({"*.sideways.*": "gram"}, "eigh", "matches no matrix"),
        ({"*.odd.weight": "gram"}, "eigh", "odd.weight' is 7 x 23"),
        ({"*.up.weight": "gram"}, "svd", "'svd' does not"),
    ):
        params = {**POLAR, "oracle": oracle, "exchange_strategy": strategy}
        assert_raises(ValueError, message, lambda: start(config(params=params, stage=3)))


@distributed(2, 3)
def test_an_untested_base_is_refused() -> None:
    """GradPower is no way around DeepSpeed's own question about unknown optimizers."""

    class Unknown(torch.optim.SGD):
        pass

    model = build_model()
    mine = GradPower(Unknown(model.parameters(), lr=0.1))
    assert_raises(
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


@distributed(2, 3)
def test_mistakes_in_the_json_are_explained() -> None:
    """The registry's errors come through deepspeed.initialize."""
    misspelt = {**config(), "zero_optimisation": {"stage": 3}}
    assert_raises(ValueError, "did you mean 'zero_optimization'?", lambda: start(misspelt))
    assert_raises(ValueError, "valid: alpha", lambda: start(config("SWAN", {"learning_rate": 0.1})))
    assert_raises(
        ValueError, "matches no parameter", lambda: start(config("SWAN", {"exclude": ["heads.*"]}))
    )


@distributed(2, 3)
def test_other_optimizers_are_untouched() -> None:
    """A config that names torch's or DeepSpeed's optimizers takes DeepSpeed's own path."""
    engine = start(config("SGD", {"lr": 0.1}, zero_allow_untested_optimizer=True))
    assert type(engine.basic_optimizer) is torch.optim.SGD
    muon = start(config("Muon", {"lr": 0.01}, zero={"reduce_scatter": False}))
    assert type(muon.basic_optimizer).__module__.startswith("deepspeed.")
    assert_raises(
        AssertionError, "untested ZeRO Optimizer", lambda: start(config("SGD", {"lr": 1.0}))
    )
