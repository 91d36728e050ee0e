"""How pytest-xdist spreads the tests over its processes; ``scripts/test.sh`` has two of them."""

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)  # there is no such hook without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process have all distributed tests, because they share the ranks.

    The other has the rest, file by file: a file's tests may share what takes long to make.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFolderOrFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            distributed = nodeid.startswith(("tests/distributed/", "tests/gpu/"))
            return "distributed" if distributed else nodeid.partition("::")[0]

    return ByFolderOrFile(config, log)
