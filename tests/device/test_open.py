"""Opening, describing, seeding and closing, in one process."""

from pathlib import Path

import pytest
import torch

from megatron_math.base.errors import UserError
from megatron_math.device.grid import Grid
from megatron_math.device.open import current_torch_device, open_device


def test_one_process_opens_closes_and_opens_again():
    from megatron.core import parallel_state

    for _ in range(2):
        with open_device(Grid(), seed=5) as device:
            assert (device.rank, device.world, device.data_rank, device.data_size) == (0, 1, 0, 1)
            assert device.is_first_stage
            assert device.is_last_stage
            assert device.is_last_rank
            assert device.torch_device == current_torch_device()
            device.barrier()
            one = torch.ones(1)
            torch.distributed.all_reduce(one, group=device.data_group)
            assert one.item() == 1
        assert not torch.distributed.is_initialized()
        assert not parallel_state.model_parallel_is_initialized()


def test_all_groups_of_a_process_share_the_thread_of_one_device():
    def listening() -> int:
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        return names.count("gloo_tcp_loop\n")

    before = listening()
    with open_device(Grid(), seed=5):
        groups = list(torch.distributed.distributed_c10d._world.pg_map)
        assert len(groups) > 10
        assert listening() - before <= 1


def test_one_process_needs_no_port(monkeypatch):
    """Another process may take it between the choice and the listening."""
    monkeypatch.setattr("megatron_math.device.open.rendezvous", None)
    with open_device(Grid(), seed=5) as device:
        device.barrier()


def test_it_closes_after_an_error_too():
    with pytest.raises(ZeroDivisionError), open_device(Grid(), seed=5):
        _ = 1 / 0
    assert not torch.distributed.is_initialized()


def test_a_world_too_small_is_said_before_anything_opens():
    text = "asked tensor 2 x pipeline 1 x context 1 = 2 does not divide world 1"
    with pytest.raises(UserError, match=text), open_device(Grid(tensor=2), seed=5):
        pass
    assert not torch.distributed.is_initialized()


def test_the_seed_decides_numbers_and_tracked_numbers():
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    def draw(seed: int) -> tuple[float, float, float]:
        with open_device(Grid(), seed=seed):
            first = torch.rand(1).item()
            with get_cuda_rng_tracker().fork():
                tracked = torch.rand(1).item()
            return first, tracked, torch.rand(1).item()

    drawn = draw(5)
    assert draw(5) == drawn
    assert not set(drawn) & set(draw(6))
    with open_device(Grid(), seed=5):
        # A fork leaves the outer stream where it was.
        assert [torch.rand(1).item() for _ in range(2)] == [drawn[0], drawn[2]]
