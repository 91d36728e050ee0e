"""The library's log: shown once, whether or not the user has set up logging."""

import logging

import torch.distributed as dist

logger = logging.getLogger("gradopt_ds")


def show_by_default() -> None:
    """Show messages on the standard error stream as long as nobody has set up logging.

    Without a handler Python shows warnings only, and the table that says which parameters are
    matrices would be the first thing to go missing. ``logging`` can still silence or redirect it.
    """
    if any(isinstance(handler, _DefaultHandler) for handler in logger.handlers):
        return
    logger.addHandler(_DefaultHandler())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def log_on_rank_0(message: str, *values: object, level: int = logging.INFO) -> None:
    """Log a message once for all ranks.

    Args:
        message: with ``%`` where values go, as in ``logging``.
        values: for those places.
        level: of ``logging``.
    """
    if not dist.is_initialized() or dist.get_rank() == 0:
        logger.log(level, message, *values)


class _DefaultHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Silent once the root logger has handlers, which show the same message."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        if not logging.getLogger().handlers:
            super().emit(record)
