"""One rank's copies on its node: which stay, whose they are, and what a full disk does to them."""

import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_saver import Trained, equal, extras

from megatron_math.base.errors import UserError
from megatron_math.checkpoint.copies import RUN_FILE, Copies, open_copies
from megatron_math.checkpoint.folders import complete_checkpoints
from megatron_math.checkpoint.saver import Saver
from megatron_math.checkpoint.state import load_training_state
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.train.config import CheckpointConfig

LAUNCH = "0123456789ab"


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[Any]:
    with open_device(Grid(), seed=3) as opened:
        yield opened


def opened(tmp_path: Path, device: Any, launch: str = LAUNCH, fingerprint: str = "f") -> Copies:
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    return open_copies(tmp_path / "node", 5, run, fingerprint, device, launch)


@pytest.fixture
def saver(tmp_path: Path, device: Any) -> Iterator[Saver]:
    copies = opened(tmp_path, device)
    saver = Saver(tmp_path / "checkpoints", 0, 1, LAUNCH, copies=copies)
    yield saver
    saver.close()


def write(saver: Saver, trained: Trained, iteration: int, *, as_copy: bool = True) -> None:
    saver.start(trained.models, trained.optimizer, iteration, extras(iteration), as_copy=as_copy)
    end = time.monotonic() + 60
    assert saver.copies is not None
    while saver.pending is not None:
        assert time.monotonic() < end
        saver.poll(0.1)
        saver.copies.told(*saver.copies.state(is_pending=saver.pending is not None))


def held(saver: Saver) -> list[str]:
    assert saver.copies is not None
    return sorted(path.name.partition(".")[0] for path in saver.copies.folder.iterdir())


def newest(tmp_path: Path, device: Any, behind: int = 0, **changes: Any) -> int | None:
    """What a new launch finds."""
    copies = opened(tmp_path, device, "ba9876543210", **changes)
    found = copies.newest(behind, lambda order: pytest.fail("no writer is needed"))
    return None if found is None else found.iteration


def test_a_new_launch_goes_on_from_the_newest_and_two_stay(
    saver: Saver, tmp_path: Path, device: Any
) -> None:
    trained = Trained(torch.float32, 1)
    for iteration in (5, 10, 15):
        trained.step(1)
        write(saver, trained, iteration)
    assert held(saver) == ["iter_0000010", "iter_0000015"]
    assert complete_checkpoints(saver.save) == []
    copies = opened(tmp_path, device, "ba9876543210")
    found = copies.newest(14, lambda order: {})
    assert found is not None
    assert (found.iteration, found.read("data_state.json")) == (15, {"iteration": 15})
    other = Trained(torch.float32, 9)
    load_training_state(other.models, other.optimizer, found.folder)
    assert equal(other.tensors(), trained.tensors())
    assert newest(tmp_path, device, behind=15) is None
    copies.remove()
    assert not copies.folder.exists()


def test_damage_is_named_and_the_one_before_is_taken(
    saver: Saver, tmp_path: Path, device: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trained = Trained(torch.float32, 1)
    for iteration in (5, 10):
        write(saver, trained, iteration)
    (path,) = saver.copies.folder.glob("iter_0000010.*/__0_0.distcp")  # type: ignore[union-attr]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert newest(tmp_path, device) == 5
    assert f"{path} is damaged" in caplog.text
    assert "iteration 10 cannot be used: no node has the part of rank 0" in caplog.text
    (table,) = saver.copies.folder.glob("iter_0000005.*/.parts/0.json")  # type: ignore[union-attr]
    table.write_bytes(table.read_bytes().replace(b'"world": 1', b'"world": 2'))
    assert newest(tmp_path, device) is None


def test_copies_of_another_run_or_from_before_a_roll_back_are_nobodys(
    saver: Saver, tmp_path: Path, device: Any
) -> None:
    write(saver, Trained(torch.float32, 1), 5)
    assert newest(tmp_path, device) == 5
    assert saver.copies is not None
    saver.copies.disown()
    assert newest(tmp_path, device) is None
    write(saver, Trained(torch.float32, 1), 6)
    assert held(saver) == ["iter_0000006"]
    assert newest(tmp_path, device) == 6
    run_file = tmp_path / "run" / RUN_FILE
    word = run_file.read_bytes()
    assert newest(tmp_path, device, fingerprint="another learning rate") is None
    assert newest(tmp_path, device) is None  # it has begun anew in between
    run_file.write_bytes(word)
    assert newest(tmp_path, device) == 6
    run_file.write_bytes(b"{")
    assert newest(tmp_path, device) is None


def test_a_full_folder_is_said_and_checkpoints_go_on(
    saver: Saver, tmp_path: Path, device: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trained = Trained(torch.float32, 1)
    write(saver, trained, 5)
    assert saver._writer is not None
    # Files of the writer may not become larger than this: it fails in the middle of one.
    no_limit = resource.prlimit(
        saver._writer.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)
    )
    write(saver, trained, 10)
    assert "copy of iteration 10 is not whole (OSError: [Errno 27] File too large" in caplog.text
    assert newest(tmp_path, device) == 5
    resource.prlimit(saver._writer.pid, resource.RLIMIT_FSIZE, no_limit)
    write(saver, trained, 15, as_copy=False)
    assert (saver.failed, saver.published) == (None, 15)
    write(saver, trained, 20)
    assert held(saver) == ["iter_0000005", "iter_0000020"]


def test_a_lost_writer_costs_one_copy(saver: Saver, tmp_path: Path, device: Any) -> None:
    trained = Trained(torch.float32, 1)
    write(saver, trained, 5)
    assert saver._writer is not None
    saver._writer.kill()
    saver._writer.wait()
    write(saver, trained, 10)
    assert newest(tmp_path, device) == 10


@pytest.mark.parametrize("kind", ["open to others", "link"])
def test_a_folder_that_is_not_ours_alone_is_refused(tmp_path: Path, device: Any, kind: str) -> None:
    folder = opened(tmp_path, device).folder
    if kind == "link":
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to("elsewhere")
    else:
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.chmod(0o770)
    with pytest.raises(UserError, match="no folder of yours alone"):
        opened(tmp_path, device)


def test_the_peer_is_on_the_next_node(tmp_path: Path) -> None:
    def peers(places: str) -> list[int | None]:
        class At:
            rank = world = 0

        found = []
        for At.rank in range(len(places)):  # noqa: B020
            at: Any = At
            found.append(Copies(tmp_path, 5, tmp_path, "f", at, LAUNCH, list(places))._peer())
        return found

    assert peers("aaaabbbb") == [4, 5, 6, 7, 0, 1, 2, 3]
    assert peers("aabbcc") == [2, 3, 4, 5, 0, 1]
    assert peers("abab") == [1, 0, 3, 2]
    assert peers("aaab") == [3, 3, 3, 0]
    assert peers("aa") == [None, None]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"interval": 50, "local": {"interval": 50}}, "is not below interval 50"),
        ({"async": False, "local": {}}, "local needs async: true"),
    ],
)
def test_copies_without_use_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CheckpointConfig.model_validate(given)


def test_copies_change_nothing_that_decides_the_result() -> None:
    plain, local = (CheckpointConfig.model_validate(one) for one in ({}, {"local": {}}))
    assert plain.identity() == local.identity()
    assert os.path.isdir(local.local.folder)  # type: ignore[union-attr]
    assert json.loads(plain.model_dump_json())["local"] is None
