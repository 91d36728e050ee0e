"""One verdict for all ranks: what stops one of them stops all, with the same message."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from gradopt_ds.integration.checkpoints.intact import DamagedFileError


class AbsentFileError(ValueError):
    """A file that this rank needs is not there."""


@contextmanager
def same_end() -> Iterator[None]:
    """Run the body on every rank; if it raises on one, raise on all. Collective.

    The message is that of the first rank with the most telling problem: a damaged file may be the
    reason of others, and a file that is absent the consequence of others, as with a checkpoint of
    fewer ranks. There may be no collective in the body.

    Raises:
        ValueError: the chosen message, the same on every rank.
    """
    problem = None
    try:
        yield
    except Exception as error:  # Whatever it is, the other ranks must not wait for this one.
        problem = error
    mine = None if problem is None else (_importance(problem), str(problem) or repr(problem))
    problems: list[tuple[int, str] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, mine)
    if raised := [each for each in problems if each is not None]:
        # min takes the first of equals: that of the lowest rank.
        raise ValueError(min(raised, key=lambda each: each[0])[1]) from problem


def _importance(problem: Exception) -> int:
    if isinstance(problem, DamagedFileError):
        return 0
    return 2 if isinstance(problem, AbsentFileError) else 1
