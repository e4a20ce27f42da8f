"""A resumed optimizer continues bit for bit; core's own way does not (the controls)."""

import dataclasses

import pytest
import torch

from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.device.optimizer_state import fuse_adam


@pytest.fixture(scope="module", autouse=True)
def device():
    with open_device(Grid(), seed=3) as opened:
        yield opened


class Run:
    """A linear layer under the distributed optimizer, stepped with seeded gradients."""

    def __init__(self, *, is_fused: bool = True):
        from megatron.core.distributed import (
            DistributedDataParallel,
            DistributedDataParallelConfig,
        )
        from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
        from megatron.core.tensor_parallel.layers import ColumnParallelLinear
        from megatron.core.transformer.transformer_config import TransformerConfig

        torch.manual_seed(0)
        config = TransformerConfig(
            num_layers=1, hidden_size=8, num_attention_heads=1, use_cpu_initialization=True
        )
        self.model = ColumnParallelLinear(
            8, 6, config=config, init_method=torch.nn.init.normal_, bias=True
        )
        ddp = DistributedDataParallelConfig(use_distributed_optimizer=True)
        self.wrapped = DistributedDataParallel(config, ddp, self.model)
        settings = OptimizerConfig(
            optimizer="adam", lr=0.1, weight_decay=0.1, use_distributed_optimizer=True
        )
        self.optimizer = get_megatron_optimizer(settings, [self.wrapped])
        if is_fused:
            fuse_adam(self.optimizer)
        self.num_steps = 0

    def step(self, times: int) -> None:
        for _ in range(times):
            self.wrapped.zero_grad_buffer()
            self.optimizer.zero_grad()
            generator = torch.Generator().manual_seed(self.num_steps)
            for parameter in self.model.parameters():
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.main_grad.copy_(gradient)
            self.optimizer.step()
            self.num_steps += 1

    def tree(self, *, is_loading: bool = False) -> dict:
        from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group

        from megatron_math.device.optimizer_state import SHARDING

        model = self.model.sharded_state_dict(metadata=ensure_metadata_has_dp_cp_group(None))
        weights = {name: part for name, part in model.items() if "_extra_state" not in name}
        optimizer = self.optimizer.sharded_state_dict(
            weights, is_loading=is_loading, metadata=SHARDING
        )
        return {"model": weights, "optimizer": optimizer}

    def tensors(self) -> list[torch.Tensor]:
        inner = self.optimizer.chained_optimizers[0].optimizer
        found = [parameter.detach() for parameter in self.model.parameters()]
        for state in inner.state.values():
            found += [state[name] for name in ("step", "exp_avg", "exp_avg_sq")]
        return [tensor.clone() for tensor in found]


def resumed(folder, *, load) -> Run:
    from megatron.core import dist_checkpointing

    from megatron_math.device.optimizer_state import create_optimizer_state

    run = Run()
    create_optimizer_state(run.optimizer)
    loaded = dist_checkpointing.load(run.tree(is_loading=True), str(folder))
    run.model.load_state_dict(loaded["model"], strict=False)
    load(run.optimizer, loaded["optimizer"])
    run.num_steps = 3
    return run


def from_core(optimizer, loaded) -> None:
    """Core has filled in whole tensors; one rank owns all of each."""
    from megatron_math.device.optimizer_state import load_optimizer_state, owned_ranges

    states = [
        {name: value.flatten() for name, value in state.items()}
        for state in loaded["param_state"].values()
    ]
    by_size = {len(state["param"]): state for state in states}
    owned = owned_ranges(optimizer)
    wanted = [dataclasses.replace(item, state=by_size[item.end - item.start]) for item in owned]
    assert [item.start for item in owned] == [0, 0]
    load_optimizer_state(optimizer, loaded, wanted)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(checkpoint after 3 steps, tensors after 5 unbroken steps)."""
    from megatron.core import dist_checkpointing

    folder = tmp_path_factory.mktemp("saved")
    run = Run()
    run.step(3)
    dist_checkpointing.save(run.tree(), str(folder))
    run.step(2)
    return folder, run.tensors()


def test_resumed_steps_equal_the_unbroken_run_bit_for_bit(saved):
    folder, expected = saved
    run = resumed(folder, load=from_core)
    run.step(2)
    assert all(torch.equal(*pair) for pair in zip(run.tensors(), expected, strict=True))
    assert {state.item() for state in run.tensors() if state.ndim == 0} == {5.0}


def test_control_the_weights_alone_are_not_enough(saved):
    folder, expected = saved
    run = resumed(folder, load=lambda optimizer, state: None)
    run.step(2)
    assert not all(torch.equal(*pair) for pair in zip(run.tensors(), expected, strict=True))


def test_core_still_needs_this(saved):
    # When this fails, core has mended its own loading and ours can go.
    with pytest.raises(KeyError, match="step"):
        resumed(saved[0], load=lambda optimizer, state: optimizer.load_state_dict(state))


def test_fresh_state_changes_no_weight_and_can_be_saved():
    from megatron_math.device.optimizer_state import create_optimizer_state

    run = Run()
    with pytest.raises(AssertionError):
        run.tree()  # core alone asks for a step count that is not there yet
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    create_optimizer_state(run.optimizer)
    assert all(map(torch.equal, before, run.model.parameters()))
    assert run.tree()["optimizer"]["param_state"]
    run.step(1)
    moments = run.tensors()
    create_optimizer_state(run.optimizer)  # and state that is there stays
    assert all(map(torch.equal, moments, run.tensors()))


def test_one_pass_over_the_state_moves_weights_as_eight_do():
    plain, fused = Run(is_fused=False), Run()
    assert all(group["fused"] for group in fused.optimizer.optimizer.param_groups)
    assert not any(group["fused"] for group in plain.optimizer.optimizer.param_groups)
    for run in (plain, fused):
        run.step(20)
    for one, other in zip(plain.model.parameters(), fused.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
