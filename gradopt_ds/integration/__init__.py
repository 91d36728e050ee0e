"""What joins the optimizers to DeepSpeed: names in the JSON, the hook, layouts, checkpoints."""

from gradopt_ds.integration.versions import SUPPORTED_DEEPSPEED, check_deepspeed_version

check_deepspeed_version()

from gradopt_ds.integration.checkpoints.configured import (  # noqa: E402
    take_settings_from_config,
)
from gradopt_ds.integration.hook import install  # noqa: E402  (reads internals checked above)
from gradopt_ds.integration.registry import register_optimizer  # noqa: E402
from gradopt_ds.integration.trainer import trainer_optimizer  # noqa: E402

__all__ = [
    "SUPPORTED_DEEPSPEED",
    "install",
    "register_optimizer",
    "take_settings_from_config",
    "trainer_optimizer",
]
