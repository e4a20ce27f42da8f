"""torch's compiler is loaded when a function that it compiles is called, not when one is defined.

Megatron-Core decorates some forty small functions with torch.compile, which loads the compiler at
once: 2.1 of the 5 seconds that a process of this project imports (2026-11-23), for functions that
no layer calls on a CPU. Where there is a GPU nothing changes. Torch-free.
"""

import functools
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

DECORATOR = "megatron.core.jit", "jit_fuser"


def compiled_late(decorate: Callable[..., Any]) -> Callable[..., Any]:
    """As the decorator `decorate`, at the first call of what it decorates."""

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        made: list[Callable[..., Any]] = []

        @functools.wraps(function)
        def late(*args: Any, **kwargs: Any) -> Any:
            if not made:
                made.append(decorate(function))
            return made[0](*args, **kwargs)

        return late

    return decorator


class LateCompiler(MetaPathFinder):
    """Finds core's module with the decorator, and replaces it before another module takes it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        module, attribute = DECORATOR
        if name != module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_replace(made: ModuleType) -> None:
            import torch

            execute(made)
            if not torch.cuda.is_available():
                setattr(made, attribute, compiled_late(getattr(made, attribute)))

        spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign, assignment]
        return spec


def compile_late() -> None:
    """From now on; to be called before megatron-core is imported. Twice is once."""
    if not any(isinstance(finder, LateCompiler) for finder in sys.meta_path):
        sys.meta_path.insert(0, LateCompiler())
