"""DeepSpeed keeps its tensor-parallel groups in module globals: put them back."""

from collections.abc import Iterator
from contextlib import contextmanager

from deepspeed.module_inject import layers
from deepspeed.utils import groups


@contextmanager
def groups_put_back() -> Iterator[None]:
    """Leave no trace of tensor parallelism for the engines that come after in these processes."""
    kept = {name: value for name, value in vars(groups).items() if not callable(value)}
    mode = layers.DEEPSPEED_AUTOTP_MODE
    try:
        yield
    finally:
        for name in {name for name, value in vars(groups).items() if not callable(value)} - set(
            kept
        ):
            delattr(groups, name)
        vars(groups).update(kept)
        layers.DEEPSPEED_AUTOTP_MODE = mode
