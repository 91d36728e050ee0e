"""What a script of the wing says where the packages that it needs are not installed.

This module imports nothing but the standard library: it must work without any of them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

EXTRA = "experiments"
PACKAGES = ("transformers", "datasets", "tokenizers", "tensorboard", "tqdm", "matplotlib")
"""What the extra installs and the library itself does not need."""


@contextmanager
def importing() -> Iterator[None]:
    """Import a script's modules; where one of :data:`PACKAGES` is missing, say so and exit.

    Raises:
        SystemExit: with status 2, after one line on the standard error stream.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        print(
            f"error: {package} is not installed. It comes with the extra {EXTRA!r}: "
            f"pip install 'gradopt-ds[{EXTRA}]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def require(package: str) -> None:
    """Refuse to go on without a package that is imported later, before hours of work are lost.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the extra.
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{package} is not installed: pip install 'gradopt-ds[{EXTRA}]'", name=package
        )
