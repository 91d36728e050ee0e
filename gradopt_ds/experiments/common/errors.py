"""What goes wrong in a way that the user of an experiment can put right."""

from pydantic import ValidationError


class PretrainError(RuntimeError):
    """A run that cannot start or go on; the message says what to change."""

    exit_status = 2


class DivergedError(PretrainError):
    """A loss that is no longer finite: in a sweep a result, elsewhere a failure."""

    exit_status = 3


class StoppedError(PretrainError):
    """A run that was asked to stop, and has saved: started again, it goes on.

    The status is that of sysexits.h's EX_TEMPFAIL: "the user is invited to retry".
    """

    exit_status = 75


def reason(error: BaseException) -> str:
    """Return what an error says, on one line; of pydantic's, each key with its complaint."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or error.title}: {problem['msg']}"
            for problem in error.errors()
        )
    return " ".join(str(error).split()) or type(error).__name__
