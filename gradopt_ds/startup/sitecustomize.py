"""Python imports this when it starts: where DeepSpeed is imported, the library will be too.

Processes that never import DeepSpeed are not slowed down: nothing of the library is imported here.
"""

import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.realpath(__file__))


class AfterDeepSpeed:
    """Stands before the finders of modules, and has ``gradopt_ds`` follow ``deepspeed``."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find what the other finders do, with an import of ``gradopt_ds`` after it."""
        if name != "deepspeed":
            return None
        others = (finder for finder in sys.meta_path if finder is not cls)
        spec = next(filter(None, (f.find_spec(name, path, target) for f in others)), None)
        if spec is not None and spec.loader is not None:
            vars(spec.loader)["exec_module"] = _followed(spec.loader.exec_module)
        return spec


def _followed(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        execute(module)
        import gradopt_ds  # noqa: F401

    return exec_module


def _run_the_next_one() -> None:
    """Run the ``sitecustomize`` that this one hides: of a distribution, a tracer, a company."""
    folders = [folder for folder in sys.path if os.path.realpath(folder) != HERE]
    spec = PathFinder.find_spec("sitecustomize", folders)
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


sys.meta_path.insert(0, AfterDeepSpeed)
_run_the_next_one()
