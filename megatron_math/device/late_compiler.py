"""torch's compiler is loaded when a function that it compiles is called, not when one is defined.

Megatron-Core decorates some forty small functions with torch.compile, which loads the compiler at
once: 2.1 of the 5 seconds that a process of this project imports (2026-11-23), for functions that
no layer calls on a CPU. While the modules of core that name the decorator are imported, it is one
that waits. Where there is a GPU nothing changes. Torch-free.
"""

import functools
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

MODULES = (
    "megatron.core.jit",  # from which the others have it
    "megatron.core.transformer.moe.router",  # names it itself in 0.19
)


def compiled_late(decorate: Callable[..., Any]) -> Callable[..., Any]:
    """`decorate`, at the first call of what it decorates; at once where it has settings."""

    def decorator(function: Any = None, **settings: Any) -> Any:
        if function is None or settings:
            return decorate(function, **settings)
        made: list[Callable[..., Any]] = []

        @functools.wraps(function)
        def late(*args: Any, **kwargs: Any) -> Any:
            if not made:
                made.append(decorate(function))
            return made[0](*args, **kwargs)

        return late

    return decorator


class LateCompiler(MetaPathFinder):
    """Finds the modules of core that take the decorator; it waits while they are imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in MODULES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_with_late_compiler(made: ModuleType) -> None:
            import torch

            if torch.cuda.is_available():
                return execute(made)
            at_once, torch.compile = torch.compile, compiled_late(torch.compile)
            try:
                execute(made)
            finally:
                torch.compile = at_once

        spec.loader.exec_module = execute_with_late_compiler  # type: ignore[method-assign, assignment]
        return spec


def compile_late() -> None:
    """From now on; to be called before megatron-core is imported. Twice is once."""
    if not any(isinstance(finder, LateCompiler) for finder in sys.meta_path):
        sys.meta_path.insert(0, LateCompiler())
