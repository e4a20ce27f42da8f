"""`status` of folders that are old, half broken, silent or many; the queue as squeue prints it."""

import json
import os
from pathlib import Path

import pytest
from hand_made_run import event, step, write_hand_made, write_lines

from megatron_math.checkpoint.folders import seal
from megatron_math.cli import main
from megatron_math.status.facts import duration, gather
from megatron_math.status.find import find_runs
from megatron_math.status.queue import Queue, chain_of, read_queue
from megatron_math.watch.launches import FILE, process_name

SQUEUE = """#!/bin/sh
echo "$@" >> "$SQUEUE_ASKED"
cat <<END
4713|PENDING|Dependency|N/A|2:00:00|afterany:4712(unfulfilled)|mm-cpt
4712|RUNNING|None|2026-11-23T02:00:00|1:12:03|(null)|mm-cpt
4714|PENDING|Dependency|N/A|2:00:00|afterok:1(unfulfilled),afterany:4713(unfulfilled)|other
99|RUNNING|None|2026-11-23T02:00:00|1:12:03|(null)|a|name
END
"""


@pytest.fixture
def training(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "study" / "cpt" / "50_train"
    folder.mkdir(parents=True)
    return folder


def status(folder: Path, now: float = 2000.0, queue: Queue | None = None) -> dict:
    (target,) = find_runs([folder], Path("runs"))
    return gather(target, lambda user: queue or Queue([], "none"), now)


def running(folder: Path, *, job: str | None = None, process: str | None = None) -> None:
    """Five steps of 10 s, the last at 1060; once there was a pause of 200 s for a save."""
    stages = [{"stage": "cpt", "first": 0, "end": 100}]
    write_lines(
        folder / FILE,
        [
            event(0, "begin", 1000.0, process=process, slurm_job=job, slurm_name="mm-cpt"),
            event(0, "loaded", 1005.0, iteration=0, stages=stages),
            event(0, "step", 1020.0, iteration=1, seconds=10.0),
        ],
    )
    rows = [step(n, 1010.0 + 10 * n, 10.0) for n in range(1, 6)]
    rows[3]["between_ms"] = {"save": 200_000.0}
    write_lines(folder / "metrics.jsonl", rows, '{"iteration": 6, "elap')


def test_a_run_by_its_name_its_folder_and_those_above(training: Path, capsys) -> None:
    write_hand_made(training)
    root = training.parent
    for given in (training, root, root.parent, root.parent.parent):
        assert [target.root for target in find_runs([given, given], Path("x"))] == [root]
    assert main(["status", str(root.parent.parent), "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["run"] == "study/cpt"
    assert facts["state"] == "done"
    assert facts["effective_share"] == pytest.approx(20 / 116)
    assert facts["tokens"] == 200
    assert facts["estimate"] is None
    other = training.parents[1] / "sft" / "50_train"
    other.mkdir(parents=True)
    assert main(["status", str(root.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["cpt", "done"], ["sft", "not"]]


def test_silence_becomes_a_stall_behind_the_longest_pause_there_was(training: Path) -> None:
    """20 medians of 10 s and a pause of 200 s: 400 s."""
    running(training)
    assert status(training, 1460.0)["state"] == "running"
    found = status(training, 1461.0)
    assert found["state"] == "stalled"
    assert found["why"] == "no step for 401 s, and 400 s are the limit"
    assert found["estimate"]["steps"] == 95
    assert found["estimate"]["seconds"] == 950
    assert found["estimate"]["seconds_with_losses"] == 95 * 60 / 5
    assert found["estimate"]["end"] is None


def test_a_process_that_is_gone_is_no_stall(training: Path) -> None:
    running(training, process=process_name())
    assert status(training, 1061.0)["state"] == "running"
    name = process_name().split("/")
    name[3] = "1"
    running(training, process="/".join(name))
    assert status(training, 1061.0)["state"] == "died"


def test_folders_that_are_old_or_half_broken(training: Path) -> None:
    assert status(training)["state"] == "not started"
    old = [{k: v for k, v in step(n, 0.0).items() if k != "time"} for n in (1, 2, 3, 4)]
    write_lines(training / "metrics.jsonl", old)
    found = status(training)
    assert (found["state"], found["iteration"], found["iterations"]) == ("unknown", 4, None)
    assert found["effective_share"] is None
    save = training / "checkpoints"
    for number in (1, 2, 3):
        folder = save / f"iter_{number:07d}"
        folder.mkdir(parents=True)
        (folder / "common.pt").write_bytes(b"1")
        seal(folder, number)
    (save / "iter_0000002" / "common.pt").unlink()
    (save / "iter_0000003" / "complete.json").write_text("{")
    write_lines(training / FILE, [event(0, "begin", 1.0)], "torn\n")
    found = status(training)
    assert found["checkpoints"]["newest_good"]["name"] == "iter_0000001"
    assert found["checkpoints"]["newest_good"]["steps_behind"] == 3
    assert [one.split(":")[0] for one in found["checkpoints"]["damaged"]] == [
        "iter_0000003", "iter_0000002",
    ]  # fmt: skip
    assert found["problems"] == ["launches.jsonl, line 2: not a line of a ledger"]
    assert main(["status", str(training)]) == 0
    (training / "DONE").write_text("x")
    assert status(training)["state"] == "done"


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A squeue on the path; the file that its arguments go to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "squeue").write_text(SQUEUE)
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SQUEUE_ASKED", str(tmp_path / "asked"))
    return tmp_path / "asked"


def test_a_chain_and_the_place_in_it(training: Path, squeue: Path, capsys) -> None:
    running(training, job="4712")
    found = status(training, 1061.0, read_queue("me"))
    assert "--user me" in squeue.read_text()
    assert found["state"] == "running"
    assert found["queue"]["chain"] == ["4712", "4713", "4714"]
    assert found["queue"]["position"] == 1
    assert [job["state"] for job in found["queue"]["jobs"]] == ["RUNNING", "PENDING", "PENDING"]
    assert main(["status", str(training)]) == 0
    assert "job 4712, 1 of a chain of 3" in capsys.readouterr().out

    running(training, job="4700")  # another one, which the queue does not have
    found = status(training, 1061.0, read_queue("me"))
    assert found["state"] == "died"
    assert "job 4700 is not in the queue any more" in found["why"]
    assert found["queue"]["chain"][:2] == ["4700", "4712"]  # by name: a chain of singletons


def test_names_that_everybody_has_make_no_chain(squeue: Path) -> None:
    queue = read_queue()
    assert [job.name for job in queue.jobs][-1] == "a|name"
    assert chain_of(queue, [], ["bash"])["chain"] == []
    assert chain_of(queue, ["1"], [])["chain"] == ["1", "4714"]


def test_a_squeue_that_fails_or_is_not_there_is_said(squeue: Path, monkeypatch) -> None:
    (squeue.parent / "bin" / "squeue").write_text("#!/bin/sh\necho no contact >&2; exit 1\n")
    assert read_queue("me").missing == "squeue ended with 1: no contact"
    monkeypatch.setenv("PATH", "/nonexistent")
    assert read_queue("me").missing == "there is no squeue here"


def test_durations_in_words() -> None:
    told = [duration(s) for s in (-1, 4.25, 59.99, 60, 3599.6, 7320, 100_000)]
    assert told == ["0.0 s", "4.2 s", "60.0 s", "1 min 0 s", "1 h 0 min", "2 h 2 min", "1 d 3 h"]
