"""Where NaN or infinity comes from: the first value in time that is none, by rank and layer.

Costly (every output is looked at), so for a step that is computed again.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch


@contextlib.contextmanager
def origins(models: Sequence[Any]) -> Iterator[list[str]]:
    """Inside, a list gets what this rank finds: weights first, then in the order of computation.

    Outputs of modules are looked at when they are there, gradients of weights when they are added
    up, which is backwards. Each kind once, where it begins.
    """
    found: list[str] = []
    handles = []
    for model in models:
        for name, weight in model.module.named_parameters():
            if not _is_finite(weight.detach()):
                found.append(f"weight {_global(name, model)}")
            elif weight.requires_grad:
                handles.append(weight.register_hook(_noting_gradient(_global(name, model), found)))
        handles += [
            module.register_forward_hook(_noting_output(name, found))
            for name, module in leaves(model)
        ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def leaves(model: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that have none inside, by the name each has in the whole model."""
    for name, module in model.module.named_modules():
        if not any(module.children()):
            yield _global(name, model), module


def _noting_output(name: str, found: list[str]) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        if not any(text.startswith("output") for text in found):
            tensors = output if isinstance(output, tuple | list) else [output]
            if not all(_is_finite(one) for one in tensors if isinstance(one, torch.Tensor)):
                found.append(f"output of {name}")

    return hook


def _noting_gradient(name: str, found: list[str]) -> Any:
    def hook(gradient: torch.Tensor) -> None:
        if not any(text.startswith("gradient") for text in found) and not _is_finite(gradient):
            found.append(f"gradient of {name}")

    return hook


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _global(name: str, model: Any) -> str:
    """`name` with the layer's number in the whole model, from 0; names count within a stage."""
    local = re.search(r"\blayers\.(\d+)", name)
    if local is None:
        return name
    layers = model.module.get_submodule(name[: local.end()].rpartition(".")[0])
    number = layers[int(local.group(1))].layer_number - 1
    return f"{name[: local.start(1)]}{number}{name[local.end(1) :]}"
