"""What reads and extends DeepSpeed: JSON names, the hook, one layout reader per wrapper."""

from gradopt_ds.integration.versions import SUPPORTED_DEEPSPEED, check_deepspeed_version

check_deepspeed_version()

from gradopt_ds.integration.hook import install  # noqa: E402  (reads internals checked above)
from gradopt_ds.integration.registry import OPTIMIZERS, build_optimizer  # noqa: E402

__all__ = ["OPTIMIZERS", "SUPPORTED_DEEPSPEED", "build_optimizer", "install"]
