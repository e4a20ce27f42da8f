"""Damage anywhere in a checkpoint is found; a program that is broken on purpose is noticed.

More: `python tests/soak/checkpoint_flips.py`.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_file, write_json
from megatron_math.checkpoint.folders import (
    complete_checkpoints,
    faults,
    newest_good,
    open_checkpoint,
    publish,
    seal,
    temporary_folder,
)


def campaign(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = repository / "tests" / "soak" / "checkpoint_flips.py"
    command = [sys.executable, str(script), "--megabytes", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def test_three_hundred_damages(repository: Path) -> None:
    result = campaign(repository, "--flips", "300", "--seed", "7")
    told = json.loads(result.stdout)
    assert told["found"] == told["flips"] == 300, told
    assert len(told["by_kind"]) == 9
    assert result.returncode == 0


@pytest.mark.parametrize(
    "sabotage", ["sizes only", "nothing digested", "complete.json is believed"]
)
def test_a_broken_program_is_noticed(repository: Path, sabotage: str) -> None:
    result = campaign(repository, "--flips", "120", "--sabotage", sabotage)
    assert result.returncode == 1
    assert json.loads(result.stdout)["missed"]


@pytest.fixture
def save(tmp_path: Path) -> Path:
    """Two small checkpoints."""
    for iteration in (10, 20):
        folder = temporary_folder(tmp_path, iteration)
        (folder / "__0_0.distcp").write_bytes(bytes([iteration]) * 3_000)
        write_json(folder / "data_state.json", {"iteration": iteration})
        publish(folder, tmp_path, iteration)
    return tmp_path


def test_every_byte_of_complete_json(save: Path) -> None:
    mark = save / "iter_0000020" / "complete.json"
    whole = mark.read_bytes()
    for at in range(len(whole)):
        for change in (1, 32, 128):
            mark.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
            assert faults(mark.parent, deep=False), (at, change)
    mark.write_bytes(whole)
    assert not faults(mark.parent)


def as_first_version(folder: Path) -> None:
    """complete.json as it was written before it had a digest."""
    mark = read_json(folder / "complete.json")
    files = {
        name: {"bytes": one["bytes"], "sha256": sha256_file(folder / name)}
        for name, one in mark["files"].items()
    }
    write_json(
        folder / "complete.json",
        {"format": mark["format"], "version": 1, "iteration": mark["iteration"], "files": files},
    )


def test_the_first_version_is_still_read(save: Path) -> None:
    folder = save / "iter_0000020"
    as_first_version(folder)
    assert open_checkpoint(save).iteration == 20
    (folder / "data_state.json").write_text("{}")
    assert faults(folder) == ["data_state.json has 2 bytes, 22 expected"]
    write_json(folder / "data_state.json", {"iteration": 21})
    assert faults(folder) == ["data_state.json does not match its digest"]


def test_another_version_is_named(save: Path) -> None:
    folder = save / "iter_0000020"
    mark = read_json(folder / "complete.json")
    write_json(folder / "complete.json", mark | {"version": 3})
    assert faults(folder) == ["complete.json has version 3; this program reads 1 to 2"]
    assert newest_good(save) == complete_checkpoints(save)[0]


def test_a_checkpoint_under_another_number_is_refused(save: Path) -> None:
    shutil.copytree(save / "iter_0000010", save / "iter_0000030")
    with pytest.raises(UserError, match="that of iter_0000010, and the folder is iter_0000030"):
        open_checkpoint(save / "iter_0000030")
    kept = save / "the_good_one"  # a name of the user's own says nothing
    (save / "iter_0000030").rename(kept)
    assert open_checkpoint(kept).folder == kept


def test_one_file_alone_is_looked_at(save: Path) -> None:
    folder = save / "iter_0000020"
    (folder / "__0_0.distcp").unlink()
    assert faults(folder, only=["data_state.json"]) == []
    assert "not one of the files" in faults(folder, only=["model.json"])[0]
    (folder / "data_state.json").write_text('{\n  "iteration": 10\n}\n')
    assert faults(folder, only=["data_state.json"]) == ["data_state.json does not match its digest"]


@pytest.mark.parametrize("text", ["", "1g", "release", "99", "²0", "\x00"])
def test_a_tracker_that_cannot_be_right_is_refused(save: Path, text: str) -> None:
    (save / "latest_checkpointed_iteration.txt").write_text(text)
    with pytest.raises(UserError, match="the newest complete checkpoint is iter_0000020"):
        open_checkpoint(save)


def test_a_tracker_left_behind_by_a_kill_is_passed_over(save: Path) -> None:
    (save / "latest_checkpointed_iteration.txt").write_text("10\n")
    assert open_checkpoint(save).iteration == 20
    assert open_checkpoint(save, 10).iteration == 10


def test_a_seal_counts_what_is_there(save: Path) -> None:
    folder = save / "iter_0000020"
    (folder / "more.json").write_text("{}")
    seal(folder, 20)
    assert "more.json" in read_json(folder / "complete.json")["files"]
    assert not faults(folder)
