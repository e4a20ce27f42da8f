"""Spikes: batches that are bad themselves are left out, and a run goes back behind them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_guards import BASE, end_of, losses, plant, told  # noqa: F401

from megatron_math.base.road import Road
from megatron_math.train.feed import Feed, batch_digest
from megatron_math.train.guards import GuardStop
from megatron_math.train.left_out import read_left_out


def garbage(steps: range) -> Callable[..., Any]:
    """Micro-batches whose labels are one rare token in `steps`: the data itself is bad."""
    real = Feed._read_step

    def read(self: Feed, number: int) -> Any:
        batches = real(self, number)
        if number in steps:
            batches = [replace(b, labels_BP=torch.full_like(b.labels_BP, 499)) for b in batches]
            batches = [replace(b, digest=int(batch_digest(b))) for b in batches]
        return batches

    return read


SPIKES = ("guards.spike_deviations=8", "guards.roll_back_after=2", "guards.replay_deviations=null")


def test_bad_batches_are_left_out_and_the_run_goes_back(copy_of, train, told, plant) -> None:  # noqa: F811
    plant(Feed, "_read_step", garbage(range(15, 18)))
    road = copy_of("spike", *BASE, *SPIKES)
    assert train(road)
    events = [event for event, _ in told]
    assert events == ["left_out", "left_out", "rolled_back", "left_out"]
    assert "went back to iteration 12" in told[2][1]
    records = read_left_out(road.folder("50_train"))
    assert [record["steps"] for record in records] == [[15], [16], [13, 14, 15, 16], [17]]
    assert [record["rolled_back_to"] for record in records] == [None, None, 12, None]
    taken = [iteration for iteration, _ in losses(road)]
    assert taken == [n for n in range(1, 23) if n - 1 not in {13, 14, 15, 16, 17}]
    # A run that is given the list takes the same steps at once, and needs no guard to see them.
    again = copy_of("again", *BASE)
    folder = again.folder("50_train")
    folder.mkdir(parents=True)
    (folder / "left_out.jsonl").write_bytes(
        (road.folder("50_train") / "left_out.jsonl").read_bytes()
    )
    told.clear()
    assert train(again)
    assert told == []
    assert losses(again) == losses(road)
    assert end_of(again) == end_of(road)


def test_too_many_left_out_end_the_run(copy_of, train, plant) -> None:  # noqa: F811
    plant(Feed, "_read_step", garbage(range(15, 22)))
    road = copy_of("many", *BASE, *SPIKES, "guards.most_left_out=3")
    with pytest.raises(GuardStop, match=r"guards.most_left_out = 3 steps were left out"):
        train(road)


def test_a_resumed_run_judges_like_an_unbroken_one(copy_of, train, told, plant) -> None:  # noqa: F811
    plant(Feed, "_read_step", garbage(range(15, 16)))
    road = copy_of("whole", *BASE, *SPIKES)
    assert train(road)
    parts = copy_of("parts", *BASE, *SPIKES, "train.stop_after=14")
    assert not train(parts)
    parts = Road.load(parts.yaml_path, parts.overrides[:-1], parts.runs)
    assert train(parts)
    assert [event for event, _ in told if event != "stop"] == ["left_out"] * 2
    assert end_of(parts) == end_of(road)
