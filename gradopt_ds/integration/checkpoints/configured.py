"""Go on with the settings of the JSON instead of those of the checkpoint."""

from typing import Any

from gradopt_ds.integration.log import log_on_rank_0
from gradopt_ds.optim import base_of
from gradopt_ds.optim.resumed_settings import use_configured


def take_settings_from_config(engine: Any) -> None:
    """Put the settings of every group back to what they were before ``engine.load_checkpoint``.

    The log says what changes. ``lr`` is left alone where a scheduler sets it.

    Args:
        engine: with an optimizer of this library, a checkpoint loaded.
    """
    optimizer = base_of(engine.basic_optimizer)
    for change in use_configured(optimizer, engine.lr_scheduler is not None):
        log_on_rank_0(change)
