"""The DeepSpeed releases whose internals this library reads."""

from importlib.metadata import version

from packaging.specifiers import SpecifierSet

SUPPORTED_DEEPSPEED = SpecifierSet(">=0.19.8,<0.20", prereleases=True)
"""The integration reads attributes of DeepSpeed's wrappers that no interface promises."""


def check_deepspeed_version() -> None:
    """Refuse a DeepSpeed whose internals are unknown.

    Raises:
        ImportError: the installed version lies outside :data:`SUPPORTED_DEEPSPEED`.
    """
    installed = version("deepspeed")
    if installed not in SUPPORTED_DEEPSPEED:
        raise ImportError(
            f"gradopt_ds supports deepspeed {SUPPORTED_DEEPSPEED}, found {installed}: "
            f"pip install 'deepspeed{SUPPORTED_DEEPSPEED}'"
        )
