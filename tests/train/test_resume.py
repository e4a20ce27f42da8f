"""Killed and started again with the same command: the end is the unbroken run's, byte for byte."""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loaded import Forked, loaded
from train_roads import metrics, shorter

from megatron_math.base.road import Road
from megatron_math.checkpoint.folders import open_checkpoint
from megatron_math.watch.progress import read_progress

TIMING = (
    "elapsed_ms", "tokens_per_second", "tokens_per_second_per_process", "tflops", "tflops_full",
    "peak_process_bytes", "phases_ms", "between_ms", "data_wait_ms", "time",
)  # fmt: skip
LAYOUTS = {"data 2": "parallel.data=2", "tensor 2": "parallel.tensor=2"}
NUM_KILLS = 2


@pytest.fixture(scope="module")
def prepared(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 steps of 8 samples: as many as the kills need."""
    return shorter(prepared, tmp_path_factory.mktemp("shorter"), 14)


def command_of(road: Road) -> list[str]:
    """The same command every time."""
    command = [sys.executable, "-m", "megatron_math.cli", "train", str(road.yaml_path)]
    return [*command, *road.overrides, "--runs", str(road.runs)]


def start(road: Road) -> Forked:
    """The command in a fork of what has loaded, in a session of its own."""
    return loaded().start(command_of(road), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def start_command(road: Road) -> subprocess.Popen[bytes]:
    """The command as a user starts it, in a session of its own."""
    return subprocess.Popen(
        command_of(road),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill(process: subprocess.Popen[bytes] | Forked) -> None:
    """SIGKILL to the launcher; its ranks and their writers die with it (the kernel sees to that).

    The pipe of the errors ends with the last of them: an orphan would be a time-out here.
    """
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes] | Forked) -> bool:
    """Poll until `condition` holds (True) or the process ends (False)."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


def is_saving(road: Road) -> bool:
    folder = road.folder("50_train") / "checkpoints"
    return any(folder.glob(".iter_*/__*.distcp"))


def num_rows(road: Road) -> int:
    path = road.folder("50_train") / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def train_with_kills(road: Road, seed: int, step_seconds: float) -> dict[str, int]:
    """Kill once inside a save, the other times by a random timer once steps are made.

    The timer is at most a dozen steps long, so that a fast machine, too, needs all the lives.
    """
    generator, kills = random.Random(seed), {"inside a save": 0, "by timer": 0}
    while sum(kills.values()) < NUM_KILLS:
        process = start_command(road)
        if kills["inside a save"] == 0:
            caught = wait_for(lambda: is_saving(road), process)
            kind = "inside a save"
        else:
            rows = num_rows(road)
            caught = wait_for(lambda seen=rows: num_rows(road) != seen, process)  # type: ignore[misc]
            time.sleep(generator.uniform(0, 12 * step_seconds))
            caught = caught and process.poll() is None
            kind = "by timer"
        if not caught:
            raise AssertionError(f"the run ended before {NUM_KILLS} kills: {process.communicate()}")
        kill(process)
        kills[kind] += 1
    process = start_command(road)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    return kills


def tensors(road: Road) -> dict[str, Any]:
    """Every tensor of the last checkpoint: weights, moments, master weights."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    folder = open_checkpoint(road.folder("50_train") / "checkpoints").folder
    state: dict[str, Any] = {}
    _load_state_dict(
        state, FileSystemReader(str(folder)), planner=_EmptyStateDictLoadPlanner(), no_dist=True
    )
    return {key: value for key, value in state.items() if torch.is_tensor(value)}


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


def without_timing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("layout", ["data 2", pytest.param("tensor 2", marks=pytest.mark.soak)])
def test_two_kills_of_the_command_change_nothing(layout: str, copy_of) -> None:
    overrides = [LAYOUTS[layout], "checkpoint.interval=5", "checkpoint.async=true"]
    overrides += ["train.validation_interval=15"]
    # Long enough that the kills fall inside: 30 steps of which every fifth is saved.
    overrides += ["train.global_batch_size=4", "train.micro_batch_size=1"]
    unbroken = copy_of("unbroken", *overrides)
    process = start(unbroken)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()

    killed = copy_of("killed", *overrides)
    step_seconds = statistics.median(row["elapsed_ms"] for row in metrics(unbroken)) / 1000
    kills = train_with_kills(killed, seed=len(layout), step_seconds=step_seconds)
    assert kills == {"inside a save": 1, "by timer": NUM_KILLS - 1}

    assert differing(tensors(unbroken), tensors(killed)) == []
    assert sum("exp_avg_sq" in key for key in tensors(killed)) > 5
    assert without_timing(metrics(unbroken)) == without_timing(metrics(killed))
    iterations = [row["iteration"] for row in metrics(killed)]
    assert iterations == list(range(1, len(iterations) + 1))
    assert metrics(unbroken, "validation.jsonl") == metrics(killed, "validation.jsonl")
    assert (killed.folder("50_train") / "DONE").is_file()
    told = read_progress(killed.folder("50_train"))
    causes = [told.cause(number) for number in range(len(told.launches))]
    assert [str(cause)[:6] for cause in causes] == ["killed"] * NUM_KILLS + ["done"]
    assert told.problems == []


def test_three_kills_by_timer_in_each_layout(
    repository: Path, prepared: Path, tmp_path: Path
) -> None:
    """The campaign of `make soak`, which has 300, and a control for every part of the state."""
    prepared = shorter(prepared, tmp_path, 10)
    script = repository / "tests" / "soak" / "training_kills.py"
    command = [sys.executable, str(script), "--road", str(prepared), "--points", "6"]
    with open(tmp_path / "told", "wb") as file:
        campaign = loaded().start(
            [*command, "--kills", "3"], stdout=file.fileno(), stderr=subprocess.PIPE
        )
        _, errors = campaign.communicate(timeout=280)
    assert campaign.returncode == 0, errors.decode()
    said = (tmp_path / "told").read_text()
    told = json.loads(said[said.index("{\n") :])
    assert (told["kills"], told["differences"]) == (6, 0)
    assert {name.split(",")[0] for name in told} >= {"data 2", "tensor 2"}
    assert sum(told[name] for name in told if name.endswith("in a save")) >= 1


def test_a_lost_moment_would_be_seen(copy_of) -> None:
    """Negative control: continue with fresh moments, and the comparison must notice."""
    overrides = ["checkpoint.interval=10", "train.validation_samples=0"]
    unbroken = copy_of("unbroken", *overrides)
    assert start(unbroken).wait(240) == 0
    broken = copy_of("broken", *overrides, "train.stop_after=10")
    assert start(broken).wait(240) == 75

    script = broken.runs / "forgetful.py"
    script.write_text(
        "import megatron_math.checkpoint.state as state\n"
        "real = state.load_optimizer_state\n"
        "def forget(optimizer, *saved):\n"
        "    real(optimizer, *saved)\n"
        "    for part in getattr(optimizer, 'chained_optimizers', [optimizer]):\n"
        "        for moments in part.optimizer.state.values():\n"
        "            moments['exp_avg_sq'].mul_(1.0001)\n"
        "state.load_optimizer_state = forget\n"
        "import os\nfrom megatron_math.train.__main__ import main\n"
        "if __name__ == '__main__':\n    os._exit(main())\n"
    )
    command = [sys.executable, str(script), str(broken.yaml_path), "--runs", str(broken.runs)]
    environment = os.environ | {
        "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571",
    }  # fmt: skip
    assert loaded().start([*command, *overrides], env=environment).wait(240) == 0
    assert differing(tensors(unbroken), tensors(broken))
    assert without_timing(metrics(unbroken)) != without_timing(metrics(broken))


def test_stopping_on_request_and_continuing_equals_one_go(copy_of) -> None:
    """SIGTERM: a checkpoint, exit code 75; the same command ends with the same losses."""
    overrides = ["checkpoint.interval=1000", "train.validation_samples=0"]
    unbroken = copy_of("unbroken", *overrides)
    assert start(unbroken).wait(240) == 0
    stopped = copy_of("stopped", *overrides)
    process = start(stopped)
    assert wait_for(lambda: num_rows(stopped) >= 3, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75
    state = open_checkpoint(stopped.folder("50_train") / "checkpoints")
    assert state.iteration == num_rows(stopped)
    assert start(stopped).wait(240) == 0
    assert differing(tensors(unbroken), tensors(stopped)) == []
    assert without_timing(metrics(unbroken)) == without_timing(metrics(stopped))


def test_another_learning_rate_does_not_continue_the_run(copy_of, capfd) -> None:
    from megatron_math.cli import main

    road = copy_of("one", "train.stop_after=3", "train.validation_samples=0")
    assert start(road).wait(240) == 75
    arguments = ["train", str(road.yaml_path), "train.lr=1e-5", "train.validation_samples=0"]
    assert main([*arguments, "--runs", str(road.runs)]) == 2
    message = capfd.readouterr().err
    assert "train.lr: 0.001 -> 1e-05" in message
    assert "another name" in message
    assert json.loads((road.folder("50_train") / "manifest.json").read_text())["state"] == "running"
