"""The thread that reads ahead changes no byte, no order and no cursor, and never outlives a step
that failed; mock data have the plan's shapes and touch no index."""

import json
import os
import sys
import threading
import traceback
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from train_roads import metrics

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.cli import main
from megatron_math.dataset.plan import load_plan
from megatron_math.device.grid import Grid
from megatron_math.device.start import start_processes
from megatron_math.train.config import TrainConfig
from megatron_math.train.feed import STEPS_AHEAD, Feed, MicroBatch
from megatron_math.train.run import check_batch, run


@pytest.fixture
def feed_of(prepared: Path):
    """feed_of(replica 0, of 1) -> a Feed on the prepared plan, steps of 8 samples."""

    def make(data_rank: int = 0, data_size: int = 1, **options) -> Feed:
        return Feed(
            load_plan(prepared / "runs/road/40_blend"),
            TrainConfig(global_batch_size=8, micro_batch_size=2, lr=1e-3),
            data_rank=data_rank,
            data_size=data_size,
            torch_device=torch.device("cpu"),
            marks_padding=True,
            **options,
        )

    return make


def tensors(batch: MicroBatch) -> list[torch.Tensor]:
    return [value for value in astuple(batch) if isinstance(value, torch.Tensor)]


def equal(one: list, other: list) -> bool:
    pairs = zip(one, other, strict=True)
    return all(
        mine.digest == yours.digest and a.dtype == b.dtype and torch.equal(a, b)
        for mine, yours in pairs
        for a, b in zip(tensors(mine), tensors(yours), strict=True)
    )


def test_padding_is_marked_and_so_are_samples_that_are_missing(feed_of) -> None:
    feed = feed_of()
    reader = feed.readers[0]
    missing = feed.num_iterations * 8 - reader.num_samples
    assert missing > 0  # the last step is not full
    steps = [feed.microbatches(iteration) for iteration in range(feed.num_iterations)]
    batches = [batch for step in steps for batch in step]
    padding_BS = torch.cat([batch.padding_BP for batch in batches])
    assert padding_BS[-missing:].all()
    assert not padding_BS[:-missing].all(1).any()
    assert padding_BS[:-missing].any()
    assert not torch.cat([batch.loss_mask_BP for batch in batches])[padding_BS].any()


def feed_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("feed")]


@pytest.mark.parametrize(("data_rank", "data_size"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("first", [0, 7])
def test_reading_ahead_changes_nothing(feed_of, data_rank, data_size, first) -> None:
    plain, ahead = feed_of(data_rank, data_size), feed_of(data_rank, data_size)
    with ahead.reading_ahead(first):
        for iteration in range(first, ahead.num_iterations):
            assert equal(ahead.microbatches(iteration), plain.microbatches(iteration))
            # The cursor counts what was trained, whatever the thread has read by now.
            assert ahead.data_state(iteration) == plain.data_state(iteration)
    assert feed_threads() == []
    # Control: the comparison sees another step.
    assert not equal(plain.microbatches(1), plain.microbatches(2))


def test_the_next_steps_are_read_while_one_runs_and_no_more(feed_of, monkeypatch) -> None:
    feed = feed_of()
    original, read = feed._read_step, []
    changed = threading.Condition()

    def note(iteration: int):
        batches = original(iteration)
        with changed:
            read.append(iteration)
            changed.notify_all()
        return batches

    monkeypatch.setattr(feed, "_read_step", note)
    with feed.reading_ahead(0):
        for iteration in range(feed.num_iterations):
            feed.microbatches(iteration)
            expected = min(iteration + 1 + STEPS_AHEAD, feed.num_iterations)
            with changed:  # "the step": the thread must come this far by itself ...
                assert changed.wait_for(lambda n=expected: len(read) >= n, timeout=30)
            assert read == list(range(expected))  # ... and no further


def fail_at(feed: Feed, step: int, monkeypatch) -> None:
    reader = feed.readers[0]
    original = reader.batch

    def a_disk_that_breaks(indices):
        if max(indices) >= step * 8:
            raise OSError(5, "Input/output error")
        return original(indices)

    monkeypatch.setattr(reader, "batch", a_disk_that_breaks)


def test_an_error_comes_up_in_its_own_step_with_its_traceback(feed_of, monkeypatch) -> None:
    feed = feed_of()
    fail_at(feed, 5, monkeypatch)
    with pytest.raises(OSError, match="Input") as failure, feed.reading_ahead(3):  # noqa: PT012
        feed.microbatches(3)
        feed.microbatches(4)
        done = "both steps before it"
        feed.microbatches(5)
    assert done
    names = [frame.name for frame in traceback.extract_tb(failure.value.__traceback__)]
    assert "a_disk_that_breaks" in names
    assert feed_threads() == []


def test_leaving_early_waits_for_one_step_only(feed_of, monkeypatch) -> None:
    feed = feed_of()
    original, started, free, read = feed._read_step, threading.Event(), threading.Event(), []

    def slow(iteration: int):
        started.set()
        free.wait(30)
        read.append(iteration)
        return original(iteration)

    monkeypatch.setattr(feed, "_read_step", slow)
    threading.Timer(0.3, free.set).start()
    with pytest.raises(KeyboardInterrupt), feed.reading_ahead(0):  # noqa: PT012
        started.wait(30)
        raise KeyboardInterrupt
    assert read == [0]  # step 1 was asked for and is never read
    assert feed_threads() == []
    assert len(feed.microbatches(9)) == 4  # without the thread any step may be asked for


def test_steps_out_of_order_are_a_mistake(feed_of) -> None:
    feed = feed_of()
    with feed.reading_ahead(0), pytest.raises(AssertionError):
        feed.microbatches(5)


def test_a_run_whose_data_break_ends_at_that_step(copy_of, tmp_path: Path, capfd) -> None:
    """No hang, the traceback of the thread, and exactly the steps before it in the metrics."""
    road = copy_of("broken", "train.validation_samples=0")
    script = tmp_path / "broken.py"
    script.write_text(
        "from megatron_math.dataset.reader import PlanReader\n"
        "original = PlanReader.batch\n"
        "def a_disk_that_breaks(self, indices):\n"
        "    if max(indices) >= 6 * 8:\n"
        "        raise OSError(5, 'Input/output error')\n"
        "    return original(self, indices)\n"
        "PlanReader.batch = a_disk_that_breaks\n"
        "from megatron_math.train.__main__ import main\n"
        "if __name__ == '__main__':\n    raise SystemExit(main())\n"  # a normal exit joins threads
    )
    command = [sys.executable, str(script), str(road.yaml_path), "--runs", str(road.runs)]
    assert start_processes([*command, *road.overrides], 1, env=dict(os.environ)) == 1
    assert "in a_disk_that_breaks" in capfd.readouterr().err
    assert [row["iteration"] for row in metrics(road)] == list(range(1, 7))


def test_mock_samples_have_the_plans_shapes_and_token_counts(feed_of) -> None:
    real, mock = feed_of(), feed_of(mock_vocab_size=50)
    assert mock.num_iterations == real.num_iterations
    assert mock.sources == real.sources
    counts: dict[str, list[float]] = {"real": [], "mock": []}
    for iteration in range(real.num_iterations):
        pair = real.microbatches(iteration), mock.microbatches(iteration)
        for ours, theirs in zip(*pair, strict=True):
            for a, b in zip(tensors(ours), tensors(theirs), strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert torch.equal(ours.source_B, theirs.source_B)
            assert theirs.tokens_BP.max() < 50
            counts["real"].append(ours.loss_mask_BP.sum().item())
            counts["mock"].append(theirs.loss_mask_BP.sum().item())
    assert sum(counts["mock"]) == pytest.approx(sum(counts["real"]), rel=0.05)
    first, second = (mock.microbatches(step)[0].tokens_BP for step in (0, 1))
    assert set(map(tuple, first.tolist())) == set(map(tuple, second.tolist()))  # made once


def test_a_mock_run_stands_beside_the_real_one_and_says_what_it_is(copy_of, capfd) -> None:
    road: Road = copy_of("mock")
    for file in road.folder("30_index").rglob("*.bin"):
        file.write_bytes(b"")  # whoever opened an index would stumble over this
    arguments = [str(road.yaml_path), "--runs", str(road.runs)]
    assert main(["train", *arguments]) == 2  # control: the real run does
    capfd.readouterr()
    assert main(["train", *arguments, "--mock-data"]) == 0
    output = capfd.readouterr()
    assert "validation, checkpoints and everything after training are left out" in output.err
    assert not road.folder("50_train").exists()

    folder = road.folder("50_train_mock")
    manifest = read_json(folder / "manifest.json")
    assert manifest["stage"] == "50_train_mock"
    assert manifest["config"]["train"]["mock_data"] is True
    assert (folder / "validation.jsonl").read_text() == ""
    assert not (folder / "checkpoints").exists()
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    (planned,) = read_json(road.folder("40_blend") / "plan.json")["stages"]
    assert last["consumed_samples"] == planned["num_samples"]
    assert main(["run", *arguments, "--from", "export", "--to", "export"]) == 2
    assert "50_train is needed" in capfd.readouterr().err


def test_real_results_in_the_mock_folder_are_left_alone(copy_of) -> None:
    road: Road = copy_of("real")
    (checkpoint := road.folder("50_train_mock") / "checkpoints/iter_0000020").mkdir(parents=True)
    (checkpoint / "complete.json").write_text("{}")
    mock = Road.load(road.yaml_path, ["train.mock_data=true"], road.runs)
    with pytest.raises(UserError, match="holds checkpoints of a run with other settings"):
        run(mock)
    assert (checkpoint / "complete.json").read_text() == "{}"


def test_waiting_for_data_is_measured(copy_of) -> None:
    road: Road = copy_of("waiting", "train.validation_samples=0")
    run(road)
    rows = metrics(road)
    assert list(rows[0])[-2:] == ["data_wait_ms", "time"]
    assert all(0 <= row["data_wait_ms"] <= row["elapsed_ms"] for row in rows)
    later = [row["data_wait_ms"] / row["elapsed_ms"] for row in rows[2:]]
    assert np.median(later) < 0.05  # the thread is ahead of the loop
    log = (road.folder("50_train") / "log.txt").read_text().splitlines()
    assert all(line.split("|")[-2].startswith(" data wait (ms): ") for line in log[:-1])


@pytest.mark.parametrize(
    ("grid", "world", "says"),
    [
        (Grid(), 3, "8 is not a multiple of micro_batch_size 2 x data-parallel replicas 3 = 6"),
        (
            Grid(pipeline=3, virtual=2),
            3,
            "replicas 1 x pipeline 3, since virtual is 2, = 6; change one",
        ),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(grid: Grid, world: int, says: str) -> None:
    train = TrainConfig(global_batch_size=8, micro_batch_size=2, lr=1e-3)
    with pytest.raises(UserError, match=says):
        check_batch(train, grid, world)
    check_batch(train, Grid(pipeline=2, virtual=2), 4)
