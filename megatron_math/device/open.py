"""Open and close the machine: process group, Megatron-Core's parallel state, seeds.

Reads the launcher's environment (`start.launched_ranks`); writes nothing.
"""

import contextlib
import datetime
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.distributed as dist

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.device.grid import Grid
from megatron_math.device.host_memory import keep_freed_memory
from megatron_math.device.meeting import alone, meeting_store
from megatron_math.device.on_cpu import patch_cpu
from megatron_math.device.start import bind_forks, launched_ranks, rendezvous

T = TypeVar("T")


@dataclass(frozen=True)
class Device:
    """This process's place: which device, which rank, which part of the grid."""

    kind: Literal["cpu", "cuda"]
    torch_device: torch.device
    grid: Grid
    rank: int
    world: int
    data_rank: int
    data_size: int
    context_rank: int
    data_group: dist.ProcessGroup
    """All that hold the same weights: replicas, and in each of them the parts of a sequence."""
    is_first_stage: bool
    is_last_stage: bool

    @property
    def num_copies(self) -> int:
        """Processes with the same weights, between which gradients and optimizer are shared."""
        return self.data_size * self.grid.context

    @property
    def is_last_rank(self) -> bool:
        """The rank that logs losses in Megatron-LM's way: the world's last one."""
        return self.rank == self.world - 1

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.kind == "cuda":
            dist.barrier(device_ids=[self.torch_device.index])
        else:
            dist.barrier()

    def from_first_rank(self, find: Callable[[], T]) -> T:
        """What rank 0 finds, on all ranks: a question to the file system that one is to ask.

        Collective. A UserError of rank 0 is raised on all.
        """
        found: list[T | UserError | None] = [None]
        if self.rank == 0:
            try:
                found = [find()]
            except UserError as error:
                found = [error]
        dist.broadcast_object_list(found, src=0)
        if isinstance(found[0], UserError):
            raise found[0]
        return found[0]  # type: ignore[return-value]


def device_kind() -> Literal["cpu", "cuda"]:
    """The kind of device that `open_device` will take: a GPU wherever torch sees one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def current_torch_device() -> torch.device:
    """Where tensors of this process live, once the device is open."""
    if device_kind() == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def pinned(tensor: torch.Tensor, torch_device: torch.device) -> torch.Tensor:
    """`tensor` in memory that a GPU fetches by itself; unchanged for a CPU. For any thread."""
    if torch_device.type != "cuda":
        return tensor
    with torch.cuda.device(torch_device):  # a new thread begins on device 0
        return tensor.pin_memory()


@contextlib.contextmanager
def open_device(
    grid: Grid, seed: int, *, timeout_minutes: float = 30.0, meeting_seconds: float = 600.0
) -> Iterator[Device]:
    """Join the process group, lay the grid over it, seed; undo it all at the end.

    Without a launcher this is a world of one process. Raises NobodyCame where ranks are not there
    within `meeting_seconds` of the first, `UserError` when the grid does not divide the world. On a
    CPU the patches of `on_cpu` are applied and stay for the process's life.
    """
    launched = launched_ranks()
    rank, world, local_rank = launched or (0, 1, 0)
    grid.data(world)  # before anything is opened
    bind_forks()
    kind = device_kind()
    if kind == "cuda":
        torch_device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(torch_device)
    else:
        torch_device = torch.device("cpu")
        patch_cpu()
        keep_freed_memory()
    timeout = datetime.timedelta(minutes=timeout_minutes)
    sockets = contextlib.nullcontext() if launched else alone()
    with sockets, contextlib.ExitStack() as opened:
        meeting = datetime.timedelta(seconds=meeting_seconds)
        store = _store(rank, world, meeting) if launched else dist.HashStore()  # nobody to meet
        if store is not None:
            store.set_timeout(timeout)
        dist.init_process_group(
            "nccl" if kind == "cuda" else "gloo",
            init_method=None if store is not None else "env://",
            store=store,
            rank=rank,
            world_size=world,
            timeout=timeout,
        )
        opened.callback(dist.destroy_process_group)
        with grid_laid(grid, timeout_minutes):
            seed_all(seed)
            device = describe(kind, torch_device, grid)
            log.info("device: %s, %d process(es), %s", kind, world, grid)
            yield device


_openings = itertools.count()


def _store(rank: int, world: int, timeout: datetime.timedelta) -> dist.Store | None:
    """Where the ranks meet. None under torchrun: its agent holds a store already, and env:// knows.

    After a restart by torchrun that store may still hold what the ranks before told each other, so
    each attempt has a part of its own.

    Elsewhere each opening in a process takes the next port: a fast rank must not meet the store
    that a slow rank is still closing.
    """
    address, port = rendezvous()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        if attempt == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return None
        store = dist.TCPStore(address, port, world, is_master=False, timeout=timeout)
        return dist.PrefixStore(f"restart {attempt}", store)
    port += next(_openings)
    return meeting_store(address, port, rank=rank, world=world, timeout=timeout)


@contextlib.contextmanager
def grid_laid(grid: Grid, timeout_minutes: float, *, host_groups: bool = True) -> Iterator[None]:
    """Core's process groups for `grid`; host_groups: a second set of them for host memory."""
    parallel_state = _parallel_state()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=grid.tensor,
        pipeline_model_parallel_size=grid.pipeline,
        virtual_pipeline_model_parallel_size=grid.virtual if grid.virtual > 1 else None,
        context_parallel_size=grid.context,
        expert_model_parallel_size=grid.expert,
        # Experts are whole: cut by tensor, too, they would need uneven gathers, which gloo lacks.
        expert_tensor_parallel_size=1 if grid.expert > 1 else None,
        distributed_timeout_minutes=int(timeout_minutes),
        create_gloo_process_groups=host_groups,
    )
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()


def describe(kind: Literal["cpu", "cuda"], torch_device: torch.device, grid: Grid) -> Device:
    """This process's place, once the grid is laid."""
    parallel_state = _parallel_state()
    return Device(
        kind=kind,
        torch_device=torch_device,
        grid=grid,
        rank=dist.get_rank(),
        world=dist.get_world_size(),
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
        context_rank=parallel_state.get_context_parallel_rank(),
        data_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        is_first_stage=parallel_state.is_pipeline_first_stage(ignore_virtual=True),
        is_last_stage=parallel_state.is_pipeline_last_stage(ignore_virtual=True),
    )


def seed_all(seed: int) -> None:
    """Seed torch and core's tensor-parallel tracker; needs the grid.

    Pipeline stages differ (by 100, as in Megatron-LM, since they draw different layers); tensor
    and data ranks draw alike, so a fresh model is one model in every layout without a pipeline.
    """
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    seed += 100 * _parallel_state().get_pipeline_model_parallel_rank()
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


def _parallel_state():
    """Core's module of process groups; importing it takes seconds, so on the first use."""
    from megatron.core import parallel_state

    return parallel_state
