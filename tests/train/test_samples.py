"""The digest of the samples that a step took, and the command that compares it with the plan."""

import json
from unittest import mock

import numpy as np
import pytest

from megatron_math.cli import main
from megatron_math.dataset.batch import Batch
from megatron_math.dataset.digest import samples_digest
from megatron_math.inspect.samples import inspect_samples
from megatron_math.train.feed import Feed


def batch_of(tokens_BS: np.ndarray) -> Batch:
    zeros_BS = np.zeros_like(tokens_BS)
    mask_BS = np.ones(tokens_BS.shape, np.float32)
    source_B = np.zeros(len(tokens_BS), np.int32)
    return Batch(tokens_BS, tokens_BS + 1, mask_BS, zeros_BS.astype(np.int32), zeros_BS, source_B)


def test_it_is_the_sum_of_its_samples_and_sees_each_of_them() -> None:
    tokens_BS = np.random.default_rng(3).integers(0, 1000, (6, 16))
    numbers, whole = np.arange(6), samples_digest(np.arange(6), batch_of(tokens_BS))
    parts = [samples_digest(numbers[k : k + 1], batch_of(tokens_BS[k : k + 1])) for k in range(6)]
    assert sum(parts) % 2**64 == whole
    assert len(set(parts)) == 6
    order = [3, 0, 5, 1, 2, 4]
    assert samples_digest(numbers[order], batch_of(tokens_BS[order])) == whole
    assert samples_digest(numbers[order], batch_of(tokens_BS)) != whole  # other numbers
    twice = [0, 0, 2, 3, 4, 5]
    assert samples_digest(numbers[twice], batch_of(tokens_BS[twice])) != whole
    real = np.array([True] * 5 + [False])
    assert samples_digest(numbers, batch_of(tokens_BS), real) == sum(parts[:5]) % 2**64
    for row, place in ((0, 0), (5, 15)):
        other_BS = tokens_BS.copy()
        other_BS[row, place] ^= 1
        assert samples_digest(numbers, batch_of(other_BS)) != whole
    swapped_BS = tokens_BS.copy()
    swapped_BS[2, [3, 4]] = tokens_BS[2, [4, 3]]
    assert samples_digest(numbers, batch_of(swapped_BS)) != whole
    unmasked = batch_of(tokens_BS)
    unmasked.loss_mask_BS[1, 1] = 0
    assert samples_digest(numbers, unmasked) != whole


def test_a_run_that_was_stopped_took_each_sample_once(
    copy_of, train, capsys: pytest.CaptureFixture[str]
) -> None:
    road = copy_of("stopped", "train.validation_samples=0", "train.stop_after=9")
    assert not train(road)
    road = type(road).load(road.yaml_path, road.overrides[:-1], road.runs)
    assert train(road)
    run = road.folder("50_train").parent
    capsys.readouterr()
    assert main(["inspect", "samples", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["iterations"], told["of_iterations"]) == (170, 22, 22)
    rows = (run / "50_train" / "metrics.jsonl").read_text().splitlines()
    (run / "50_train" / "metrics.jsonl").write_text("".join(line + "\n" for line in rows[:-1]))
    assert inspect_samples(run)["faults"] == ["the run is done, and iteration 22 is missing"]
    for name, lines in (("twice", [*rows[:5], *rows[4:]]), ("lost", rows[:5] + rows[6:])):
        (run / "50_train" / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
        assert any("stands where" in fault for fault in inspect_samples(run)["faults"]), name
    assert main(["inspect", "samples", str(run)]) == 1
    assert "iteration 7 stands where 6 is due" in capsys.readouterr().out


def test_a_sample_in_place_of_another_is_seen(copy_of, train) -> None:
    road = copy_of("other", "train.validation_samples=0", "train.stop_after=8")
    real = Feed.first_samples

    def first_samples(self: Feed, iteration: int) -> list[int]:
        found = real(self, iteration)
        return [found[0], *found[:-1]] if iteration == 4 else found  # one twice, one lost

    with mock.patch.object(Feed, "first_samples", first_samples):
        assert not train(road)
    told = inspect_samples(road.folder("50_train").parent)
    assert told["faults"] == ["iteration 5 did not take samples 32 to 39"]
