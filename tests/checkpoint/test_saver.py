"""What is written is core's format; what goes wrong in writing leaves the rank as it was."""

import errno
import json
import math
import os
import pickle
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import megatron_math.checkpoint.saver as saver_module
import megatron_math.checkpoint.writer as writer_module
from megatron_math.checkpoint.folders import (
    complete_checkpoints,
    faults,
    open_checkpoint,
    retire,
)
from megatron_math.checkpoint.pieces import RankState, rank_state
from megatron_math.checkpoint.saver import Extras, Saver
from megatron_math.checkpoint.state import load_training_state, load_weights, model_state
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.device.optimizer_state import SHARDING, create_optimizer_state, owned_ranges
from megatron_math.model.build import build_model
from megatron_math.model.presets import load_preset
from megatron_math.train.config import TrainConfig
from megatron_math.train.optimizer import build_optimizer, wrap_for_training

TRAIN = TrainConfig.model_validate(
    {"global_batch_size": 1, "micro_batch_size": 1, "lr": 0.1, "schedule": "constant"}
)
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[Any]:
    with open_device(Grid(), seed=3) as opened:
        yield opened


class Trained:
    """A tiny model that was moved `num_steps` times by seeded gradients."""

    def __init__(self, dtype: torch.dtype, num_steps: int) -> None:
        config = load_preset("tiny").model_copy(update={"vocab_size": 512, "num_layers": 2})
        models = build_model(config, grid=Grid(), dtype=dtype, sequence_length=32, seed=num_steps)
        self.models = wrap_for_training(models, dtype, overlap=False)
        self.optimizer = build_optimizer(self.models, TRAIN, dtype, overlap=False)
        self.generator = torch.Generator().manual_seed(num_steps)
        self.step(num_steps)

    def step(self, times: int) -> None:
        for _ in range(times):
            for model in self.models:
                model.zero_grad_buffer()
                for parameter in model.parameters():
                    random = torch.randn(parameter.shape, generator=self.generator)
                    parameter.main_grad.copy_(random)
            self.optimizer.zero_grad()
            self.optimizer.step()

    def tensors(self) -> list[torch.Tensor]:
        """Weights, master weights, moments and step counts, copied."""
        weights = [p.detach() for model in self.models for p in model.parameters()]
        states = [value for item in owned_ranges(self.optimizer) for value in item.state.values()]
        parts = getattr(self.optimizer, "chained_optimizers", [self.optimizer])
        entries = [entry for part in parts for entry in part.optimizer.state.values()]
        return [value.clone() for value in weights + states + [e["step"] for e in entries]]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[Saver]:
    saver = Saver(tmp_path / "checkpoints", 0, 1, "launch")
    yield saver
    saver.close()


def extras(iteration: int) -> Extras:
    return Extras({"data_state.json": {"iteration": iteration}}, {})


def wait(saver: Saver) -> None:
    end = time.monotonic() + 60
    while saver.pending is not None:
        assert time.monotonic() < end
        saver.poll(0.1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_was_copied_comes_back_whatever_happened_since(
    saver: Saver, dtype: torch.dtype
) -> None:
    trained = Trained(dtype, 3)
    expected, gradients = trained.tensors(), trained.generator.get_state()
    saver.start(trained.models, trained.optimizer, 3, extras(3))
    trained.step(2)  # while it is written
    assert not equal(trained.tensors(), expected)
    wait(saver)
    assert (saver.failed, saver.published) == (None, 3)

    found = open_checkpoint(saver.save)
    assert (found.iteration, found.read("data_state.json")) == (3, {"iteration": 3})
    other = Trained(dtype, 1)
    load_training_state(other.models, other.optimizer, found.folder)
    assert equal(other.tensors(), expected)
    other.generator.set_state(gradients)
    other.step(2)
    assert equal(other.tensors(), trained.tensors())


def test_a_process_that_writes_itself_writes_the_same(saver: Saver, tmp_path: Path) -> None:
    trained = Trained(torch.float32, 1)
    alone = Saver(tmp_path / "alone", 0, 1, "launch", asynchronous=False)
    for one in (saver, alone):
        one.start(trained.models, trained.optimizer, 1, extras(1))
        wait(one)
    assert alone._writer is None
    digests = [
        json.loads((one.save / "iter_0000001/complete.json").read_text()) for one in (saver, alone)
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_core_reads_ours_and_we_read_cores(
    saver: Saver, tmp_path: Path, dtype: torch.dtype
) -> None:
    from megatron.core import dist_checkpointing

    trained = Trained(dtype, 3)
    saver.start(trained.models, trained.optimizer, 3, extras(3))
    wait(saver)
    ours = open_checkpoint(saver.save).folder

    def tree(trainee: Trained, *, is_loading: bool = False) -> dict[str, Any]:
        create_optimizer_state(trainee.optimizer)
        weights = model_state(trainee.models)
        optimizer = trainee.optimizer.sharded_state_dict(
            weights, is_loading=is_loading, metadata=SHARDING
        )
        return weights | {"optimizer": optimizer}

    core = tmp_path / "core"
    core.mkdir()
    dist_checkpointing.save(tree(trained) | {"iteration": 3}, str(core))
    tables = [pickle.loads((folder / ".metadata").read_bytes()) for folder in (ours, core)]
    shapes = [
        {key: (value.size, value.properties) for key, value in table.state_dict_metadata.items()
         if hasattr(value, "size")}
        for table in tables
    ]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 20
    assert tables[0].state_dict_metadata.keys() == tables[1].state_dict_metadata.keys()

    other = Trained(dtype, 1)
    load_training_state(other.models, other.optimizer, core)
    assert equal(other.tensors(), trained.tensors())

    loaded = dist_checkpointing.load(tree(Trained(dtype, 1), is_loading=True), str(ours))
    whole = dist_checkpointing.load(tree(Trained(dtype, 1), is_loading=True), str(core))
    assert _flat(loaded).keys() == _flat(whole).keys()
    for key, value in _flat(whole).items():
        found = _flat(loaded)[key]
        assert torch.equal(found, value) if torch.is_tensor(value) else found == value, key


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        parts = [_flat(value, f"{name}.{key}") for key, value in items]
        return {key: value for part in parts for key, value in part.items()}
    return {} if "_extra_state" in name else {name: tree}


def test_equal_states_give_equal_files(saver: Saver) -> None:
    trained = Trained(torch.bfloat16, 2)
    digests = []
    for iteration in (2, 3):
        saver.start(trained.models, trained.optimizer, iteration, extras(0))
        wait(saver)
        files = json.loads((saver.save / f"iter_000000{iteration}/complete.json").read_text())
        digests.append(files["files"])
    common = [part.pop("common.pt") for part in digests]  # has the iteration
    assert digests[0] == digests[1]
    assert common[0] != common[1]


def test_a_full_disk_is_said_and_the_next_save_is_whole(saver: Saver) -> None:
    trained = Trained(torch.float32, 1)
    saver.start(trained.models, trained.optimizer, 1, extras(1))
    wait(saver)
    writer = saver._writer
    assert writer is not None
    # Files of this process may not become larger than this: a write fails in the middle.
    no_limit = resource.prlimit(
        writer.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)
    )
    saver.start(trained.models, trained.optimizer, 2, extras(2))
    wait(saver)
    assert saver.failed is not None
    assert saver.failed[0] == 2
    assert "File too large" in saver.failed[1]
    assert [path.name for path in saver.save.iterdir() if "2" in path.name] == []
    assert open_checkpoint(saver.save).iteration == 1

    resource.prlimit(writer.pid, resource.RLIMIT_FSIZE, no_limit)
    saver.start(trained.models, trained.optimizer, 3, extras(3))
    wait(saver)
    assert open_checkpoint(saver.save).iteration == 3


def test_a_lost_writer_is_said_and_the_next_save_has_another(saver: Saver) -> None:
    trained = Trained(torch.float32, 1)
    saver.prepare(trained.models, trained.optimizer)
    assert saver._writer is not None
    os.kill(saver._writer.pid, signal.SIGSTOP)
    saver.start(trained.models, trained.optimizer, 1, extras(1))
    saver.poll(0.2)
    assert saver.pending == 1
    os.kill(saver._writer.pid, signal.SIGKILL)
    wait(saver)
    assert saver.failed == (1, "its writer ended with exit code -9")
    assert complete_checkpoints(saver.save) == []
    saver.start(trained.models, trained.optimizer, 2, extras(2))
    wait(saver)
    assert open_checkpoint(saver.save).iteration == 2


def test_rank_0_waits_for_every_part_and_can_give_up(tmp_path: Path) -> None:
    """One of two ranks: the other one's part never comes."""
    trained = Trained(torch.float32, 1)
    saver = Saver(tmp_path, 0, 2, "launch")
    saver.start(trained.models, trained.optimizer, 1, extras(1))
    for _ in range(20):
        saver.poll(0.1)
    assert saver.pending == 1
    saver.give_up()
    assert (saver.pending, saver.failed) == (None, (1, "another rank's part is missing"))
    assert complete_checkpoints(tmp_path) == []
    saver.close()


def test_a_part_that_cannot_be_written_ends_the_waiting_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks, one after the other in one process: the folder is gone when rank 0 looks again."""
    trained = Trained(torch.float32, 1)
    first, second = (Saver(tmp_path, n, 2, "launch", asynchronous=False) for n in (0, 1))

    def fails(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def meanwhile(seconds: float) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(writer_module, "write_part", fails)
            second.start(trained.models, trained.optimizer, 1, None)

    # the module's own name for it: threads of others sleep, too
    monkeypatch.setattr(writer_module, "time", SimpleNamespace(sleep=meanwhile))
    first.start(trained.models, trained.optimizer, 1, extras(1))
    assert second.failed == (1, "OSError: [Errno 28] No space left on device")
    assert first.failed == (1, "RuntimeError: no part of rank 1, which gave the folder up")
    assert list(tmp_path.iterdir()) == []


def test_the_writer_does_not_outlive_its_rank(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        saver = Saver(tmp_path, 0, 1, "launch")
        saver._begin(1)
        assert saver._writer is not None
        (tmp_path / "pid").write_text(str(saver._writer.pid))
        time.sleep(60)
        os._exit(1)
    end = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    writer = Path("/proc", (tmp_path / "pid").read_text())
    while writer.exists() and "zombie" not in (writer / "status").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_rectangle_that_nobody_wrote_is_found_before_publishing(
    saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained(torch.float32, 1)

    def forgetful(*arguments: Any) -> RankState:
        found = rank_state(*arguments)
        number, piece = next(
            (number, piece)
            for number, piece in enumerate(found.pieces)
            if piece.values.numel() < math.prod(piece.global_shape)
        )
        del found.pieces[number]
        return found

    monkeypatch.setattr(saver_module, "rank_state", forgetful)
    saver.start(trained.models, trained.optimizer, 1, extras(1))
    wait(saver)
    assert saver.failed is not None
    assert " values for (" in saver.failed[1]
    assert complete_checkpoints(saver.save) == []


def test_the_last_good_one_is_never_taken(tmp_path: Path, saver: Saver) -> None:
    trained = Trained(torch.float32, 1)
    for iteration in (1, 2, 3, 4):
        saver.start(trained.models, trained.optimizer, iteration, extras(iteration))
        wait(saver)

    def left() -> list[int | None]:
        return [checkpoint.iteration for checkpoint in complete_checkpoints(saver.save)]

    for damaged in (3, 4):
        (saver.save / f"iter_000000{damaged}" / "common.pt").unlink()
        assert faults(saver.save / f"iter_000000{damaged}", deep=False)
    taken = retire(saver.save, keep=1)
    assert left() == [2, 3, 4]
    assert [path.name for path in taken] == [".iter_0000001.tmp.removed"]
    saver.remove(taken)
    saver.close()
    assert not taken[0].exists()
    assert retire(saver.save, keep=2, always=frozenset({2})) == []
    load_weights(trained.models, saver.save / "iter_0000002")
