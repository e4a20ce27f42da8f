"""Stages: same inputs and config, no work; anything else, work; never half-written."""

from pathlib import Path

import pytest

from megatron_math.base.config import Section
from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, read_json
from megatron_math.base.stage import Stage, WouldRun, announcing, finished_stage


class Config(Section):
    lr: float = 1.0


def make(folder: Path, source: Path, lr: float = 1.0, seed: int = 0) -> Stage:
    return Stage(folder, config={"train": Config(lr=lr)}, inputs={"text": source}, seed=seed)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("one")
    return path


@pytest.fixture
def done(tmp_path: Path, source: Path) -> Path:
    stage = make(tmp_path / "50_train", source)
    stage.begin()
    (stage.folder / "out.txt").write_text("result")
    stage.finish(stats={"lines": 1}, outputs=[stage.folder / "out.txt"])
    return stage.folder


def test_done_until_something_that_matters_changes(done: Path, source: Path) -> None:
    assert make(done, source).is_done()
    assert not make(done, source, lr=2.0).is_done()
    assert not make(done, source, seed=1).is_done()
    assert make(done, source, lr=2.0).changes() == ["config.train.lr: 1.0 -> 2.0"]
    source.write_text("two")
    assert not make(done, source).is_done()


def test_an_input_of_equal_content_elsewhere_is_the_same(done: Path, source: Path) -> None:
    moved = source.rename(source.with_name("moved.jsonl"))
    assert make(done, moved).is_done()


def test_a_lost_or_shortened_output_is_noticed(done: Path, source: Path) -> None:
    (done / "out.txt").write_text("res")
    assert not make(done, source).is_done()


def test_beginning_takes_the_mark_away(done: Path, source: Path) -> None:
    stage = make(done, source, lr=3.0)
    stage.begin()
    assert not (done / "DONE").exists()
    assert read_json(done / "manifest.json")["state"] == "running"
    with pytest.raises(UserError, match="not finished"):
        finished_stage(done)


def test_a_dry_run_writes_nothing(tmp_path: Path, source: Path) -> None:
    stage = make(tmp_path / "new", source)
    with announcing(), pytest.raises(WouldRun, match="not run yet"):
        stage.begin()
    assert not stage.folder.exists()


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the input 'text' at .*nothing"):
        make(tmp_path / "x", tmp_path / "nothing")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_open(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
