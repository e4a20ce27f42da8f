"""Kill a training run again and again by a timer; it must end as the unbroken one, byte for byte.

    python tests/soak/training_kills.py [--points 300] [--seed 1] [--work DIR] [--road DIR]
    python tests/soak/training_kills.py --controls

A small model on real text, data read ahead, two ranks (data 2, then tensor 2), a checkpoint every
other step, written while training goes on. Each life is forked from a process that has loaded
everything; SIGKILL hits all ranks at once, a random time after the life's first step, or in the
middle of a save. A run gets as many lives as it needs. At its end every tensor of its last
checkpoint, every row of the losses and the ledger of samples must be the unbroken run's. Prints the
kills by layout and by what they hit as JSON; exit code 1 at the first difference.

--controls: one kill for each part of the state, which the next life then leaves out on purpose; all
of them must be noticed. --road: a prepared road of the tests, otherwise one is made.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))

import torch
import train_roads
from test_resume import differing, tensors, without_timing

from megatron_math.base.log import set_up_logging
from megatron_math.base.road import Road
from megatron_math.checkpoint import folders, saver, state
from megatron_math.checkpoint.writer import ForkedWriter
from megatron_math.device import optimizer_state
from megatron_math.device.start import free_port
from megatron_math.train import metrics as metrics_module
from megatron_math.train import run as train_run
from megatron_math.train.standby import LOADED

LAYOUTS = {"data 2": ["parallel.data=2"], "tensor 2": ["parallel.tensor=2"]}
OVERRIDES = [
    "checkpoint.interval=2", "checkpoint.async=true", "train.global_batch_size=4",
    "train.micro_batch_size=1", "train.validation_interval=15", "precision.dtype=bf16",
]  # fmt: skip
"""In bf16 there are master weights beside the weights."""
WORLD = 2
for name in LOADED:  # before the forks, because a life is short
    importlib.import_module(name)
LIMIT_SECONDS = 300


def life(road: Road, fault: Callable[[], Any]) -> list[int]:
    """The ranks of one launch, forked from this process."""
    port, ranks = free_port(), []
    for rank in range(WORLD):
        child = os.fork()
        if child == 0:
            try:
                os.setpgid(0, 0)
                os.environ.update(
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD),
                    LOCAL_WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                )  # fmt: skip
                torch.set_num_threads(1)
                saver.at_hand.append(ForkedWriter())
                with fault():
                    train_run.run(road)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a fork must not come back from here
                traceback.print_exc()
                os._exit(1)
        ranks.append(child)
    return ranks


def alive(ranks: list[int]) -> bool:
    return not any(
        os.waitid(os.P_PID, rank, os.WEXITED | os.WNOHANG | os.WNOWAIT) for rank in ranks
    )


def end(ranks: list[int]) -> list[int]:
    """Wait for all ranks; their exit statuses."""
    return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


def num_rows(road: Road) -> int:
    path = road.folder("50_train") / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def is_saving(road: Road) -> bool:
    return any((road.folder("50_train") / "checkpoints").glob(".iter_*.tmp.*"))


def train_with_kills(
    road: Road, generator: random.Random, most: int, fault: Callable[[], Any], saved: int = 0
) -> Counter[str]:
    """Kill and start again until the run has ended; kills by what they hit.

    saved: checkpoints that there must be before a kill, so that a life goes on from something.
    """
    checkpoints = road.folder("50_train") / "checkpoints"
    kills: Counter[str] = Counter()
    while True:
        rows, ranks = num_rows(road), life(road, fault)
        limit = time.monotonic() + LIMIT_SECONDS
        while alive(ranks) and (
            num_rows(road) == rows or len(folders.complete_checkpoints(checkpoints)) < saved
        ):
            assert time.monotonic() < limit, "no step was made"
            time.sleep(0.002)
        if kills.total() < most:
            into_save = generator.random() < 0.5
            limit = time.monotonic() + (30 if into_save else generator.uniform(0, 0.6))
            hit = "between saves"
            while alive(ranks) and time.monotonic() < limit:
                if into_save and is_saving(road):
                    hit = "a save"
                    break
                time.sleep(0.0005)
            if alive(ranks):
                for rank in ranks:
                    os.kill(rank, signal.SIGKILL)
                end(ranks)
                kills[hit] += 1
                continue
        statuses = end(ranks)
        assert statuses == [0] * WORLD, f"a life ended with {statuses}"
        return kills


def compare(unbroken: Road, killed: Road) -> None:
    """AssertionError names what differs."""
    found = differing(tensors(unbroken), tensors(killed))
    assert found == [], f"tensors differ: {found[:4]}"
    rows = [without_timing(train_roads.metrics(road)) for road in (unbroken, killed)]
    assert rows[0] == rows[1], "rows of metrics.jsonl differ"
    held_out = [train_roads.metrics(road, "validation.jsonl") for road in (unbroken, killed)]
    assert held_out[0] == held_out[1], "validation.jsonl differs"


@contextlib.contextmanager
def nothing() -> Iterator[None]:
    yield


def prepared(folder: Path) -> Path:
    """The road of tests/train up to its blend."""
    make = train_roads.prepared.__wrapped__  # the fixture's function

    class Factory:
        def mktemp(self, name: str) -> Path:
            (folder / name).mkdir(parents=True)
            return folder / name

    return make(Factory())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20, help="most kills of one run")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--road", type=Path)
    parser.add_argument("--controls", action="store_true")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    set_up_logging(quiet=True)
    generator = random.Random(arguments.seed)
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if arguments.prepare:
            prepared(arguments.prepare)
            return
        base = arguments.road or work / "prepared"
        if not base.exists():  # elsewhere: threads that this process had would be missing in forks
            subprocess.run([sys.executable, __file__, "--prepare", str(work)], check=True)
        if arguments.controls:
            said = controls(base, work, generator)
        else:
            said = campaign(base, work, generator, arguments.points, arguments.kills)
    print(json.dumps(said, indent=1))


def campaign(
    base: Path, work: Path, generator: random.Random, points: int, most_of_a_run: int
) -> dict[str, int]:
    """Kills by layout and by what they hit. AssertionError at the first difference."""
    counts: Counter[str] = Counter()
    for layout, parallel in LAYOUTS.items():
        unbroken = run_unbroken(base, work / f"unbroken {layout}", parallel)
        most, number, done = points // len(LAYOUTS), 0, 0
        while done < most:
            number += 1
            killed = copy(base, work / f"killed {layout} {number}", parallel)
            kills = train_with_kills(killed, generator, min(most_of_a_run, most - done), nothing)
            compare(unbroken, killed)
            assert kills, "a run ended before its first kill"
            done += kills.total()
            counts.update({f"{layout}, in {hit}": n for hit, n in kills.items()})
            shutil.rmtree(killed.runs)
    return {"kills": counts.total(), "differences": 0, **counts}


def controls(base: Path, work: Path, generator: random.Random) -> dict[str, Any]:
    """What each sabotage was noticed by. AssertionError where one was not."""
    parallel = LAYOUTS["data 2"]
    unbroken = run_unbroken(base, work / "unbroken", parallel)
    noticed = {}
    for name, fault in SABOTAGE.items():
        killed = copy(base, work / name, parallel)
        try:
            assert train_with_kills(killed, generator, 1, fault, saved=1).total() == 1
            compare(unbroken, killed)
        except AssertionError as error:
            noticed[name] = str(error)
        else:
            raise AssertionError(f"nobody noticed that a life went on without the {name}")
    return {"controls": len(SABOTAGE), "noticed": len(noticed), "by": noticed}


def run_unbroken(base: Path, runs: Path, parallel: list[str]) -> Road:
    road = copy(base, runs, parallel)
    assert end(life(road, nothing)) == [0] * WORLD
    return road


def copy(base: Path, runs: Path, parallel: list[str]) -> Road:
    shutil.copytree(base / "runs", runs, symlinks=True)
    return Road.load(base / "road.yaml", [*OVERRIDES, *parallel], runs)


def without(place: Any, name: str, change: Callable[..., Any]) -> Callable[[], Any]:
    """`place.name` does something else."""
    whole = getattr(place, name)
    return lambda: mock.patch.object(place, name, lambda *a, **k: change(whole, *a, **k))


def _one_state_less(kind: str) -> Callable[[], Any]:
    """The tensors `kind` of the optimizer keep what a fresh optimizer has."""

    def load(whole: Callable[..., Any], optimizer: Any, common: Any, owned: list[Any]) -> None:
        fresh = {
            item.weight: item.state[kind].clone()
            for item in optimizer_state.owned_ranges(optimizer)
        }
        for item in owned:
            item.state[kind].copy_(fresh[item.weight])
        whole(optimizer, common, owned)

    return without(state, "load_optimizer_state", load)


def _other_weights(whole: Callable[..., Any], models: Any, *rest: Any) -> None:
    """What is read goes into the model's own memory, so that leaving out a copy leaves out nothing;
    and master weights make weights good, but only after a step."""
    weights = [weight for model in models for weight in model.parameters()]
    fresh = [weight.detach().clone() for weight in weights]
    whole(models, *rest)
    for weight, values in zip(weights, fresh, strict=True):
        weight.data.copy_(values)


def _no_steps(whole: Callable[..., Any], optimizer: Any, *rest: Any) -> None:
    whole(optimizer, *rest)
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        for entry in part.optimizer.state.values():
            entry["step"].zero_()


def _other_cursor(key: str, change: int) -> Callable[[], Any]:
    def read(whole: Callable[..., Any], checkpoint: Any, name: str) -> Any:
        found = whole(checkpoint, name)
        return found | {key: found[key] + change} if name == "data_state.json" else found

    return without(folders.Checkpoint, "read", read)


SABOTAGE: dict[str, Callable[[], Any]] = {
    "weights": without(state, "load_training_state", _other_weights),
    "first moments": _one_state_less("exp_avg"),
    "second moments": _one_state_less("exp_avg_sq"),
    "master weights": _one_state_less("param"),
    "count of steps": without(state, "load_optimizer_state", _no_steps),
    "cursor of the data": _other_cursor("iteration", -1),
    "count of tokens": _other_cursor("consumed_tokens", -1),
    "end of the log": without(
        metrics_module, "Metrics",
        lambda whole, *a, **k: whole(*a, **{**k, "kept_to": k["kept_to"] and 10**6}),
    ),
}  # fmt: skip
"""No random state and no schedule: nothing in a step draws, rates follow from the iteration."""


if __name__ == "__main__":
    sys.exit(main())
