"""Megatron-Core on a CPU: the one table of runtime patches, applied only where there is no GPU.

Core asks `torch.cuda` for devices, random states and synchronisation in its common paths; each row
of `PATCHES` answers one such question with its CPU counterpart. Nothing else in this project
patches anything. Reads nothing, writes nothing on disk.
"""

import functools
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from megatron_math.base.log import log

SEEN = "0.16.1"  # the versions of megatron-core with which every row was seen to be needed


@dataclass(frozen=True)
class Patch:
    """One replaced name: `name` is dotted from its module, `make` takes the original."""

    name: str
    why: str
    make: Callable[[Any], Any]
    seen: str = SEEN

    def locate(self) -> tuple[Any, str]:
        """(owner, attribute); raises AttributeError when upstream has no such name any more."""
        owner, attribute = _owner(self.name)
        getattr(owner, attribute)
        return owner, attribute


class _CpuGenerators:
    """Stands for `torch.cuda.default_generators`: any index means the CPU's one generator."""

    def __getitem__(self, index: object) -> torch.Generator:
        return torch.default_generator


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda original: value


def _returning(value: Any) -> Callable[[Any], Any]:
    return lambda original: lambda *args, **kwargs: value


def _with_cpu_device(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A factory whose `device="cuda"` means the CPU, whose memory no GPU fetches."""

    @functools.wraps(factory)
    def on_cpu(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is not None and str(device).startswith("cuda"):
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return on_cpu


def _with_cuda_name(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Tensor.type()` without arguments, answering as if the tensor were on a GPU."""

    def type_of(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = original(self, *args, **kwargs)
        if not args and not kwargs and self.device.type == "cpu":
            return answer.replace("torch.", "torch.cuda.", 1)
        return answer

    return type_of


def _on_one_device(original: Any) -> Any:
    """The class of gloo's groups, all of a process's on one device, thus with one thread."""

    @functools.cache
    def device(process: int, interface: str | None) -> Any:
        return original.create_default_device()

    class ProcessGroupGloo(original):
        def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
            options = original._Options()
            options._devices = [device(os.getpid(), os.environ.get("GLOO_SOCKET_IFNAME"))]
            options._timeout = timeout
            super().__init__(store, rank, size, options)

    return ProcessGroupGloo


def _with_lists(original: Callable[..., Any]) -> Callable[..., Any]:
    """The expert dispatcher's copies to the host, where they are: sizes as gloo wants them."""

    def on_host(self: Any, point: str, tokens_per_expert: Any = None) -> Any:
        if point == self.cuda_dtoh_point:
            for name in ("input_splits", "output_splits"):
                sizes = getattr(self, name)
                setattr(self, name, None if sizes is None else sizes.tolist())
        return tokens_per_expert

    return on_host


def _unless_alone(original: Callable[..., Any]) -> Callable[..., Any]:
    """A gather or scatter of a buffer and this rank's part of it, which in a group of one is it."""

    def among_others(output: torch.Tensor, given: torch.Tensor, **kwargs: Any) -> Any:
        if kwargs["group"].size() == 1 and output.data_ptr() == given.data_ptr():
            return None
        return original(output, given, **kwargs)

    return among_others


_BUFFERS = "megatron.core.distributed.param_and_grad_buffer"
_DISPATCHER = "megatron.core.transformer.moe.token_dispatcher.MoEAlltoAllTokenDispatcher"

_FACTORIES = ("empty", "empty_like", "ones", "tensor", "zeros")

PATCHES: tuple[Patch, ...] = (
    Patch(
        "torch.cuda.current_device",
        "buffers are made with device=torch.cuda.current_device(), inside autograd functions too",
        _returning(torch.device("cpu")),
    ),
    Patch(
        "torch.cuda.default_generators",
        "the random tracker sets the state of default_generators[current_device()]",
        _constant(_CpuGenerators()),
    ),
    Patch(
        "torch.cuda.get_rng_state",
        "the random tracker keeps one state per name",
        lambda original: lambda device=None: torch.get_rng_state(),
    ),
    Patch(
        "torch.cuda.random.get_rng_state",
        "activation recompute stores the state through this second name",
        lambda original: lambda device=None: torch.get_rng_state(),
    ),
    Patch(
        "torch.cuda.manual_seed",
        "the random tracker seeds a state before it keeps it",
        lambda original: torch.manual_seed,
    ),
    Patch(
        "megatron.core.tensor_parallel.random._lazy_call",
        "torch queues the call until a GPU is initialised, which never happens; call at once",
        lambda original: lambda call, **kwargs: call(),
    ),
    Patch(
        "torch.cuda.synchronize",
        "called around batched p2p, timers and checkpoints",
        _returning(None),
    ),
    Patch(
        "torch.distributed.distributed_c10d.ProcessGroupGloo",
        "a device for each of core's 20 groups, whose thread wakes a hundred times a second: 2.7 % "
        "of a core for each waiting rank",
        _on_one_device,
    ),
    Patch(
        "torch.cuda.current_stream",
        "asked for before gradients are added up, to wait on it for a replayed graph's",
        _returning(None),
        seen="0.19.2",
    ),
    Patch(
        "torch.Tensor.cuda",
        "tied embeddings and checkpoint loading move tensors with .cuda()",
        lambda original: lambda self, *args, **kwargs: self,
    ),
    Patch(
        "torch.Tensor.type",
        "optimizer and clipping compare type names with 'torch.cuda.FloatTensor' and kin",
        _with_cuda_name,
    ),
    Patch(
        f"{_DISPATCHER}.cuda_dtoh_stream",
        "the dispatcher of tokens to experts opens a CUDA stream unless there is one",
        _constant("no stream"),
    ),
    Patch(
        f"{_DISPATCHER}._maybe_dtoh_and_synchronize",
        "it waits for that stream, and leaves the sizes to send as tensors, where gloo wants lists",
        _with_lists,
    ),
    *(
        Patch(
            f"{_BUFFERS}.dist_{name}_func",
            "gloo copies all gradients and weights of a lone process onto themselves: 1 to 5 % of "
            "a step",
            _unless_alone,
        )
        for name in ("all_gather", "reduce_scatter")
    ),
    *(
        Patch(f"torch.{name}", "called with device='cuda' or pin_memory=True", _with_cpu_device)
        for name in _FACTORIES
    ),
)

_applied = False


def patch_cpu() -> None:
    """Apply `PATCHES` once, for the life of this process. An error of ours where a GPU is."""
    global _applied
    assert not torch.cuda.is_available(), "nothing is patched where there is a GPU"
    if _applied:
        return
    # `with torch.device(...)` collects the factory functions on its first use and for good. It must
    # find the originals: a model made under `torch.device("meta")` later, as transformers does, had
    # rotary frequencies of whatever lay in memory (2026-11-21).
    with torch.device("meta"):
        torch.empty(0)
    for patch in PATCHES:
        owner, attribute = patch.locate()
        setattr(owner, attribute, patch.make(getattr(owner, attribute)))
    _applied = True
    log.debug("no GPU: %d names of torch and megatron-core answer for the CPU", len(PATCHES))


def _owner(name: str) -> tuple[Any, str]:
    """Split a dotted name into the object that owns it and the attribute."""
    *path, attribute = name.split(".")
    owner: Any = None
    for length in range(1, len(path) + 1):
        try:
            owner = importlib.import_module(".".join(path[:length]))
        except ModuleNotFoundError:
            owner = getattr(owner, path[length - 1])
    return owner, attribute
