"""A node is lost: the run goes on from the copies that its peer holds, and ends as if unbroken.

Two ranks take each other for ranks of two nodes, since each has a folder of its own.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_guards import before_step
from test_resume import differing, kill, num_rows, start, tensors, wait_for, without_timing
from train_roads import metrics

from megatron_math.base.road import Road
from megatron_math.checkpoint.folders import complete_checkpoints
from megatron_math.train.watch import Watch
from megatron_math.watch.progress import read_progress

OVERRIDES = [
    "parallel.data=2", "checkpoint.async=true", "checkpoint.interval=20",
    "train.validation_interval=15", "train.global_batch_size=4", "train.micro_batch_size=1",
]  # fmt: skip
ENOUGH = "train.stop_after=40"


def copies(node: Path) -> list[Path]:
    """Folders of copies of which this node has both parts, oldest first."""
    found = [path.parent.parent for path in node.glob("*/iter_*/.parts/1.json")]
    return sorted(path for path in found if (path / ".parts/0.json").is_file())


@dataclass
class Killed:
    """A run that was killed behind checkpoint 20 with newer copies on both nodes, and can be so
    again."""

    road: Road
    nodes: list[Path]
    aside: Path

    def again(self, *overrides: str) -> Road:
        """As it was when it was killed; with other overrides, which do not change the result."""
        for number, folder in enumerate([*self.nodes, self.road.folder("50_train")]):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.aside / str(number), folder)
        raw = [*self.road.overrides, *overrides]
        return Road.load(self.road.yaml_path, raw, self.road.runs)

    def newest(self) -> Path:
        return copies(self.nodes[0])[-1]


def finished(road: Road, code: int = 0) -> str:
    """Train; returns what the ranks said."""
    process = start(road)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == code, errors.decode()
    return errors.decode()


def source_of(road: Road, launch: int = 1) -> str | None:
    return read_progress(road.folder("50_train")).launches[launch].source


def iteration_of(copy: Path) -> int:
    return int(copy.name[5:12])


@pytest.fixture(scope="module")
def killed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(prepared / "runs", folder / "runs", symlinks=True)
    nodes = [folder / "node0", folder / "node1"]
    place = f"checkpoint.local.folder={folder}/node${{LOCAL_RANK:-0}}"
    overrides = [*OVERRIDES, place, "checkpoint.local.interval=3"]
    road = Road.load(prepared / "road.yaml", overrides, folder / "runs")
    process = start(road)

    def on_both() -> set[str]:
        first, second = ({one.name for one in copies(node)} for node in nodes)
        return {name for name in first & second if name > "iter_0000021"}

    assert wait_for(lambda: bool(on_both()), process), process.communicate()[1].decode()
    kill(process)
    newest = max(on_both())
    for path in folder.glob("node*/*/iter_*"):  # one that only one of them had already
        if path.name.partition(".")[0] > newest.partition(".")[0]:
            shutil.rmtree(path)
    assert [one.iteration for one in complete_checkpoints(save_of(road))] == [20]
    for number, one in enumerate([*nodes, road.folder("50_train")]):
        shutil.copytree(one, folder / "aside" / str(number))
    return Killed(road, nodes, folder / "aside")


def save_of(road: Road) -> Path:
    return road.folder("50_train") / "checkpoints"


def test_a_lost_node_is_made_good_by_its_peer_and_nothing_differs(killed: Killed, copy_of) -> None:
    unbroken = copy_of("unbroken", *OVERRIDES)
    finished(unbroken)
    road = killed.again()
    at, rows = iteration_of(killed.newest()), num_rows(road)
    shutil.rmtree(killed.nodes[1])
    finished(road)
    assert source_of(road) == f"iter_{at:07d} (local copy)"
    assert 20 < at <= rows
    assert differing(tensors(unbroken), tensors(road)) == []
    assert without_timing(metrics(unbroken)) == without_timing(metrics(road))
    assert metrics(unbroken, "validation.jsonl") == metrics(road, "validation.jsonl")
    assert [list(node.iterdir()) for node in killed.nodes] == [[], []]


def test_damaged_parts_are_taken_from_the_peer_and_damaged_checkpoints_left(
    killed: Killed,
) -> None:
    """The checkpoint is called one of iteration 39: newer than the copies, and no sound one."""
    road = killed.again(ENOUGH)
    at = iteration_of(killed.newest())
    part = killed.newest() / "__0_0.distcp"
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 16
    part.write_bytes(content)
    (save_of(road) / "iter_0000020").rename(save_of(road) / "iter_0000039")
    said = finished(road, 75)
    assert "iter_0000039 is damaged" in said
    assert f"{part} is damaged; another node may have it" in said
    assert source_of(road) == f"iter_{at:07d} (local copy)"


def test_a_part_that_nobody_holds_sends_all_back_to_the_checkpoint(killed: Killed) -> None:
    road = killed.again(ENOUGH)
    for node in killed.nodes:
        for path in node.glob("*/iter_*/__1_0.distcp"):
            path.unlink()
    said = finished(road, 75)
    at = iteration_of(killed.newest()) if copies(killed.nodes[0]) else None
    assert at is None  # stopped with a checkpoint: the copies are gone
    assert "cannot be used: no node has the part of rank 1; going back one" in said
    assert source_of(road) == "iter_0000020"


def test_another_world_goes_on_from_what_two_nodes_hold(killed: Killed) -> None:
    """One process, on the first node alone."""
    road = killed.again(ENOUGH, "parallel.data=1")
    at = iteration_of(killed.newest())
    finished(road, 75)
    assert source_of(road) == f"iter_{at:07d} (local copy)"


def test_ranks_that_die_come_back_from_a_copy_in_the_same_job(killed: Killed) -> None:
    """In this machine's memory, where both ranks have one folder and nothing is sent."""
    from killed_ranks import kill_rank, wait_for_first_step

    road = killed.again(f"checkpoint.local.folder={killed.aside}/one")
    process: subprocess.Popen[bytes] = start(road)
    wait_for_first_step(road, 2, process)
    assert wait_for(lambda: bool(copies(killed.aside / "one")), process)
    kill_rank(process.pid, 1)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    assert source_of(road, 1) == "iter_0000020"  # the new folder was empty
    assert str(source_of(road, 2)).endswith("(local copy)")
    left: Any = list((killed.aside / "one").iterdir())
    assert left == []
    rows = metrics(road)
    assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))
    done = json.loads((road.folder("50_train") / "manifest.json").read_text())
    assert done["state"] == "done"


def test_a_roll_back_disowns_the_copies_of_what_it_leaves(
    copy_of, train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = copy_of(
        "flipped", "checkpoint.interval=4", "checkpoint.async=true", "train.validation_samples=0",
        "train.stop_after=9", f"checkpoint.local.folder={tmp_path}/node",
        "checkpoint.local.interval=1",
    )  # fmt: skip
    file, words, told = road.folder("50_train") / "local_copies.json", [], []

    def flip(guards: Any) -> None:
        words.append(json.loads(file.read_text())["run"])
        guards._tensors[0].tensor.view(-1)[0] += 1

    before_step(monkeypatch.setattr, 6, flip)
    monkeypatch.setattr(Watch, "tell", lambda self, event, message: told.append((event, message)))
    assert not train(road)  # stopped
    assert [event for event, _ in told] == ["rolled_back"]
    assert "went back to iteration 4" in told[0][1]
    assert json.loads(file.read_text())["run"] not in words
    assert words
    assert os.listdir(tmp_path / "node") == []
