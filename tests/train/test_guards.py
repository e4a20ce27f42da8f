"""Guards: flipped bits, NaN, batches that change. What was mended equals what was never broken."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from train_roads import metrics, shorter

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.checkpoint.folders import complete_checkpoints
from megatron_math.device.digests import digest
from megatron_math.train.feed import Feed
from megatron_math.train.guards import Guards, GuardStop, _minority
from megatron_math.train.left_out import LeftOut, read_left_out
from megatron_math.train.run import run
from megatron_math.train.watch import Watch

BASE = (
    "checkpoint.interval=4", "train.validation_samples=0", "guards.spike_steps=10",
    "train.micro_batch_size=4",
)  # fmt: skip
STEPS = 11


@pytest.fixture(scope="module")
def prepared(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is planted shows by step 8: a plan half as long does."""
    return shorter(prepared, tmp_path_factory.mktemp("shorter"), STEPS - 1)


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """(event, message) of all that a run in this process tells."""
    found: list[tuple[str, str]] = []

    def tell(self: Watch, event: str, message: str) -> None:
        found.append((event, message))

    with mock.patch.object(Watch, "tell", tell):
        yield found


@pytest.fixture
def plant() -> Iterator[Callable[[Any, str, Any], None]]:
    with ExitStack() as stack:
        yield lambda where, name, what: stack.enter_context(mock.patch.object(where, name, what))


def end_of(road: Road) -> dict[str, str]:
    """Digests of the files of the newest checkpoint, which hold all tensors of the run."""
    newest = complete_checkpoints(road.folder("50_train") / "checkpoints")[-1].folder
    files = json.loads((newest / "complete.json").read_text())["files"]
    return {
        name: entry["blake3_64mib"] for name, entry in files.items() if name.endswith(".distcp")
    }


def losses(road: Road) -> list[tuple[int, float]]:
    return [(row["iteration"], row["lm loss"]) for row in metrics(road)]


def flip(tensor: torch.Tensor, byte: int, bit: int) -> None:
    tensor.view(-1).view(torch.uint8)[byte] ^= 1 << bit


def before_step(plant, chosen: int, act: Callable[[Guards], None], times: int = 1) -> None:
    """`act` on the guards of this process before step `chosen`, counted from 0."""
    real, left = Guards.take, [times]

    def take(self: Guards, step: int, attempt: Any) -> Any:
        if step == chosen and left[0]:
            left[0] -= 1
            act(self)
        return real(self, step, attempt)

    plant(Guards, "take", take)


def named(guards: Guards, start: str) -> torch.Tensor:
    return next(one.tensor for one in guards._tensors if one.name.startswith(start))


def in_batch(plant, chosen: int, act: Callable[[Any], Any], *, again: bool) -> None:
    """`act` changes the first micro-batch of a step; `again`: also when it is read once more."""

    def changing(real: Any) -> Any:
        def changed(self: Feed, number: int) -> Any:
            batches = real(self, number)
            return [act(batches[0]), *batches[1:]] if number == chosen else batches

        return changed

    plant(Feed, "microbatches", changing(Feed.microbatches))
    if again:
        plant(Feed, "again", changing(Feed.again))


@pytest.fixture(scope="module")
def unbroken(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end of a run without any guard."""
    import shutil

    from megatron_math.train.run import read_order, train_rank

    runs = tmp_path_factory.mktemp("unbroken") / "runs"
    shutil.copytree(prepared / "runs", runs, symlinks=True)
    off = ("guards.finite=false", "guards.digest_steps=0", "guards.replay_deviations=null")
    road = Road.load(prepared / "road.yaml", [*BASE, *off], runs)
    train_rank(road, read_order(road))
    return {"files": end_of(road), "losses": losses(road)}


def is_unbroken(road: Road, unbroken: dict[str, Any]) -> bool:
    return end_of(road) == unbroken["files"] and losses(road) == unbroken["losses"]


def test_without_faults_they_change_nothing_and_say_nothing(copy_of, train, told, unbroken) -> None:
    road = copy_of("sound", *BASE, "guards.spike_deviations=30")
    assert train(road)
    assert is_unbroken(road, unbroken)
    assert [event for event, _ in told] == []
    assert not (road.folder("50_train") / "left_out.jsonl").exists()
    assert all("guards" in row["phases_ms"] for row in metrics(road))


@pytest.mark.parametrize("what", ["weights", "exp_avg of", "exp_avg_sq of"])
def test_a_flipped_bit_at_rest_is_found_and_undone(
    copy_of, train, told, unbroken, plant, what
) -> None:
    road = copy_of("flipped", *BASE)
    before_step(plant, 6, lambda guards: flip(named(guards, what), 4 * 77 + 1, 3))
    assert train(road)
    assert [event for event, _ in told] == ["rolled_back"]
    assert "step 7: weights, master weights or moments changed" in told[0][1]
    assert "rank(s) [0]; went back to iteration 4" in told[0][1]
    assert is_unbroken(road, unbroken)


def test_without_digests_the_flip_stays(copy_of, train, told, unbroken, plant) -> None:
    """The control: what the test above flips does matter."""
    road = copy_of("unseen", *BASE, "guards.digest_steps=0")

    def act(guards: Guards) -> None:
        from megatron_math.device.digests import state_tensors

        guards._tensors = state_tensors(guards._models, guards._optimizer)
        flip(named(guards, "exp_avg of"), 4 * 77 + 1, 3)

    before_step(plant, 6, act)
    assert train(road)
    assert told == []
    assert not is_unbroken(road, unbroken)


def test_memory_that_keeps_failing_ends_the_run(copy_of, train, told, plant) -> None:
    road = copy_of("broken", *BASE)
    before_step(plant, 6, lambda guards: flip(named(guards, "weights"), 80, 0), times=9)
    with pytest.raises(GuardStop, match=r"step 7: .*rank\(s\) \[0\], .*take the machine of rank 0"):
        train(road)
    assert [event for event, _ in told] == ["rolled_back", "rolled_back"]


@pytest.mark.parametrize("name", ["tokens_BP", "labels_BP", "document_ids_BS"])
def test_a_batch_that_changed_is_read_again(copy_of, train, told, unbroken, plant, name) -> None:
    road = copy_of("batch", *BASE)

    def act(batch: Any) -> Any:
        flip(getattr(batch, name), 8, 0)
        return batch

    in_batch(plant, 5, act, again=False)
    assert train(road)
    assert [event for event, _ in told] == ["transient"]
    assert "step 6: the batch changed after it was read, on rank(s) [0]" in told[0][1]
    assert is_unbroken(road, unbroken)


def test_a_batch_that_changes_each_time_ends_the_run(copy_of, train, plant) -> None:
    road = copy_of("misread", *BASE)

    def act(batch: Any) -> Any:
        batch.tokens_BP[0, 0] ^= 1
        return batch

    in_batch(plant, 5, act, again=True)
    with pytest.raises(GuardStop, match="and again: step 6: the batch changed"):
        train(road)


def spoil_gradients(plant, chosen: int, times: int) -> None:
    """Of the first `times` computations of a step each has a flipped bit in another gradient."""
    real, count = Guards.measured, [0]

    def measured(self: Guards, *found: Any) -> None:
        if self._step == chosen and count[0] < times:
            count[0] += 1
            flip(self._models[0].buffers[0].grad_data, 4 * 77 * count[0] + 2, 7)
        real(self, *found)

    plant(Guards, "measured", measured)


def test_a_step_is_computed_until_two_results_are_alike(
    copy_of, train, told, unbroken, plant
) -> None:
    """One time of three is what a flip inside the computation does."""
    road = copy_of("compared", *BASE, "guards.replay_steps=5")
    spoil_gradients(plant, 5, times=1)
    assert train(road)
    ((event, message),) = told
    assert event == "transient"
    text = "step 6: not the same again on rank(s) [0], from the backward pass on; the third time"
    assert text in message
    assert is_unbroken(road, unbroken)


def test_where_a_second_computation_differs_first_is_named(
    copy_of, train, told, unbroken, plant
) -> None:
    """A flip of no effect: of a value whose position has no loss, in the last layer."""
    road = copy_of("named", *BASE, "guards.replay_steps=1")
    real = Guards.take

    def flip_once(module: Any, given: Any, output: Any) -> Any:
        handles.pop().remove()
        changed = output[0].clone()
        changed[-1, -1, 0] = -changed[-1, -1, 0]
        return changed, *output[1:]

    def take(self: Guards, step: int, attempt: Any) -> Any:
        if step == 5:
            mlp = self._models[0].module.decoder.layers[3].mlp.linear_fc2
            handles.append(mlp.register_forward_hook(flip_once, prepend=True))
        return real(self, step, attempt)

    handles: list[Any] = []
    plant(Guards, "take", take)
    assert train(road)
    ((event, message),) = told
    assert event == "transient"
    assert "on rank(s) [0], from rank 0: decoder.layers.3.mlp.linear_fc2; the third" in message
    assert is_unbroken(road, unbroken)


def test_without_a_second_computation_it_goes_into_the_weights(
    copy_of, train, told, unbroken, plant
) -> None:
    road = copy_of("not compared", *BASE, "guards.replay_steps=4")
    spoil_gradients(plant, 5, times=1)
    assert train(road)
    assert told == []
    assert not is_unbroken(road, unbroken)


def test_a_machine_that_never_computes_alike_ends_the_run(copy_of, train, plant) -> None:
    road = copy_of("never", *BASE, "guards.replay_steps=1")
    spoil_gradients(plant, 5, times=3)
    with pytest.raises(
        GuardStop, match=r"step 6: .*rank\(s\) \[0\], from .*: three computations, three"
    ):
        train(road)
    assert [iteration for iteration, _ in losses(road)] == [1, 2, 3, 4, 5]


def test_fp8_has_no_second_result(copy_of, train) -> None:
    fp8 = "precision.fp8={recipe: delayed, backend: emulate}"
    with pytest.raises(UserError, match=r"guards.replay_steps compares two computations"):
        run(copy_of("fp8", *BASE, fp8, "guards.replay_steps=1"))


def spoil_output(plant, chosen: int, times: int) -> None:
    """One value that a module of layer 2 gives in step `chosen` is NaN, `times` times."""
    left, handles = [times], []

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        if left[0]:
            left[0] -= 1
            values = output[0].clone()
            values[0, 0, 0] = float("nan")
            return (values, *output[1:])
        return output

    def act(guards: Guards) -> None:
        module = guards._models[0].module.get_submodule("decoder.layers.2.mlp.linear_fc1")
        handles.append(module.register_forward_hook(hook, prepend=True))

    def after(guards: Guards) -> None:
        handles.pop().remove()

    before_step(plant, chosen, act)
    before_step(plant, chosen + 1, after)


def test_nan_once_is_computed_again(copy_of, train, told, unbroken, plant) -> None:
    road = copy_of("once", *BASE)
    spoil_output(plant, 5, times=1)
    assert train(road)
    assert [event for event, _ in told] == ["transient"]
    assert "step 6: loss nan" in told[0][1]
    assert is_unbroken(road, unbroken)


def test_nan_that_stays_is_named_and_its_step_left_out(copy_of, train, told, plant) -> None:
    road = copy_of("stays", *BASE)
    spoil_output(plant, 5, times=99)
    assert train(road)
    assert [event for event, _ in told] == ["left_out"]
    assert "first in rank 0: output of decoder.layers.2.mlp.linear_fc1" in told[0][1]
    (record,) = read_left_out(road.folder("50_train"))
    assert record["steps"] == [5]
    assert record["samples"] == [["train", 40, 47]]
    assert [iteration for iteration, _ in losses(road)] == [*range(1, 6), *range(7, STEPS + 1)]
    assert all(torch.isfinite(torch.tensor(loss)) for _, loss in losses(road))


def test_nan_goes_into_the_weights_without(copy_of, train, told, plant) -> None:
    road = copy_of("without", *BASE, "guards.finite=false", "train.stop_after=8")
    spoil_output(plant, 5, times=99)
    assert not train(road)
    assert [loss == loss for _, loss in losses(road)] == [True] * 5 + [False] * 3


def test_digests_see_every_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    for dtype, count in ((torch.float32, 33), (torch.bfloat16, 101), (torch.int64, 7)):
        tensor = torch.randn(count, generator=generator).to(dtype)
        for view in (tensor, tensor[3:]):
            whole = int(digest(view))
            for byte in range(view.numel() * view.element_size()):
                for bit in range(8):
                    flip(view, byte, bit)
                    assert int(digest(view)) != whole
                    flip(view, byte, bit)
            assert int(digest(view)) == whole


@pytest.mark.parametrize(
    ("values", "groups", "odd"),
    [
        ([5, 5, 5, 5], [0, 0, 0, 0], []),
        ([5, 5, 6, 5], [0, 0, 0, 0], [2]),
        ([5, 7, 5, 7], [0, 1, 0, 1], []),
        ([5, 7, 6, 7], [0, 1, 0, 1], [0, 2]),
        ([5, 6, 7, 5, 5, 5], [0, 0, 0, 3, 3, 3], [0, 1, 2]),
    ],
)
def test_the_minority_is_named(values: list[int], groups: list[int], odd: list[int]) -> None:
    import numpy as np

    assert _minority(np.array(values), np.array(groups)) == odd


def test_a_line_cut_short_was_never_acted_upon(tmp_path: Path) -> None:
    left_out = LeftOut(tmp_path, [], writes=True)
    left_out.add([3], [("main", 24, 31)], "why")
    left_out.add([4], [("main", 32, 39)], "why")
    assert left_out.refused_up_to(5) == [3, 4]
    assert left_out.refused_up_to(4) == [3]
    assert left_out.refused_up_to(6) == []
    path = tmp_path / "left_out.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert [record["steps"] for record in read_left_out(tmp_path)] == [[3]]
    LeftOut(tmp_path, read_left_out(tmp_path), writes=True).add([9], [("main", 0, 7)], "x", 2)
    assert [record["steps"] for record in read_left_out(tmp_path)] == [[3], [9]]
    assert LeftOut(tmp_path, read_left_out(tmp_path), writes=False).refused_up_to(10) == []
