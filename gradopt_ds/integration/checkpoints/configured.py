"""Go on with the settings of the JSON instead of those of the checkpoint."""

from typing import Any

from gradopt_ds.integration.log import log_on_rank_0
from gradopt_ds.optim import base_of
from gradopt_ds.optim.resumed_settings import left_by_a_schedule, use_configured


def take_settings_from_config(engine: Any) -> None:
    """Put the settings of every group back to what they were before ``engine.load_checkpoint``.

    The log says what changes. ``lr`` is left alone where a scheduler sets it.

    Args:
        engine: with an optimizer of this library, a checkpoint loaded.
    """
    optimizer = base_of(engine.basic_optimizer)
    for change in use_configured(optimizer, engine.lr_scheduler is not None):
        log_on_rank_0(change)


def warn_of_lr_without_schedule(engine: Any) -> None:
    """Say where the schedule of a checkpoint has left ``lr``, if nothing goes on with it.

    Args:
        engine: a checkpoint has been loaded.
    """
    if engine.lr_scheduler is not None:
        return
    if groups := left_by_a_schedule(base_of(engine.basic_optimizer).param_groups):
        log_on_rank_0(
            f"{'; '.join(groups)}. The checkpoint was saved in the middle of a schedule, no "
            "scheduler is configured, and so lr stays as it is: configure the scheduler, or call "
            "gradopt_ds.take_settings_from_config(engine)"
        )
