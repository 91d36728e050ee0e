"""What goes wrong in a way that the user of this room can put right."""


class PretrainError(RuntimeError):
    """A run that cannot start or go on; the message says what to change."""

    exit_status = 2


class DivergedError(PretrainError):
    """A loss that is no longer finite: in a sweep a result, elsewhere a failure."""

    exit_status = 3
