"""What DeepSpeed remembers of an engine in module globals, for all later ones of the process."""

from deepspeed.module_inject import layers
from deepspeed.runtime import torch_autocast
from deepspeed.utils import groups

AUTOTP_MODE = layers.DEEPSPEED_AUTOTP_MODE


def forget_engines() -> None:
    """Let no engine find the units and the autocast of the one before.

    The worker does so before every test; one with engines of several kinds does it between them.
    Groups of experts stay: they are looked up by their size.
    """
    groups.mpu = groups.mesh_device = None
    groups._TENSOR_MODEL_PARALLEL_GROUP = groups._MODEL_PARALLEL_GROUP = None
    groups._DATA_PARALLEL_GROUP = None
    groups._MPU_TENSOR_MODEL_PARALLEL_WORLD_SIZE = groups._MPU_TENSOR_MODEL_PARALLEL_RANK = None
    layers.DEEPSPEED_AUTOTP_MODE = AUTOTP_MODE
    # In float16 it would have the next engine scale its loss.
    torch_autocast.TORCH_AUTOCAST_INITIALIZED, torch_autocast.TORCH_AUTOCAST_DTYPE = False, None
