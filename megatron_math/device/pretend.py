"""One rank of a world of any size, alone in this process: for `train --dry-run`.

The process group is torch's fake one: groups have their true ranks and sizes, no collective sends
or waits, and results are meaningless. Tensors made inside `without_memory` have shapes and types
and no storage, so an 8B model costs nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_math.device.grid import Grid
from megatron_math.device.on_cpu import patch_cpu
from megatron_math.device.open import Device, describe, device_kind, grid_laid

_FACTORIES = frozenset(("arange", "empty", "full", "ones", "rand", "randn", "tensor", "zeros"))
_META = torch.device("meta")


@contextlib.contextmanager
def pretended_device(grid: Grid, rank: int, world: int) -> Iterator[Device]:
    """Be `rank` of `world`, with core's groups for `grid`; no other process is needed.

    The device says that it is a CPU, since nothing is to be computed. Raises `UserError` when the
    grid does not divide the world.
    """
    assert 0 <= rank < world, (rank, world)
    grid.data(world)
    if device_kind() == "cpu":
        patch_cpu()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        with grid_laid(grid, timeout_minutes=1, host_groups=False):
            yield describe("cpu", torch.device("cpu"), grid)
    finally:
        dist.destroy_process_group()


class _OnMeta(TorchFunctionMode):
    """Sends every new tensor to torch's meta device, also where core names another device."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in _FACTORIES:
            kwargs["device"] = _META
        elif func is torch.Tensor.to and args[0].is_meta:
            kwargs.pop("device", None)
            args = [a for a in args if not isinstance(a, torch.device | str | int)]
        return func(*args, **kwargs)


def without_memory() -> contextlib.AbstractContextManager[Any]:
    """Inside, tensors are made without storage."""
    return _OnMeta()
