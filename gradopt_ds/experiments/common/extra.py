"""What a script of the experiments says where the packages that it needs are not installed.

This module imports nothing but the standard library: it must work without any of them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

EXTRA = "experiments"
PACKAGES = (
    "datasets", "matplotlib", "numpy", "tensorboard", "tokenizers", "tqdm", "transformers",
)  # fmt: skip
"""What the extra installs, as pyproject.toml lists it."""


@contextmanager
def required() -> Iterator[None]:
    """Import a script's modules inside of this block; say so and exit where the extra is missing.

    All of :data:`PACKAGES` are looked for before the block: some are imported in the ranks that a
    script starts, or after hours of work. It is a block and no call, so that linters see that the
    imports still are what a script begins with.

    Raises:
        SystemExit: with status 2, after one line on the standard error stream.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        print(
            f"error: not installed: {', '.join(missing)}. The extra {EXTRA!r} has all that is "
            f"needed here: pip install 'gradopt-ds[{EXTRA}]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    yield


def require(package: str) -> None:
    """Refuse a package that is imported later, and is not installed.

    Raises:
        ModuleNotFoundError: the message names the extra.
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{package} is not installed: pip install 'gradopt-ds[{EXTRA}]'", name=package
        )
