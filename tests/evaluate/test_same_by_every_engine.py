"""One trained model, greedy, fp32: the same score to the item, whoever computes it.

Items whose two best tokens ever lie within 1e-4 of each other are listed and exempt.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import adder
import pytest
from served import needs_serve, served

from megatron_math.base.road import Road
from megatron_math.convert.run import run_base
from megatron_math.engine.hf import HuggingFaceEngine
from megatron_math.engine.interface import Answer, Request
from megatron_math.engine.local import LocalEngine
from megatron_math.engine.megatron import MegatronEngine
from megatron_math.evaluate.run import run

TIE = 1e-4
KILLS = 10


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """The trained model as a Hugging Face folder and as a checkpoint of Megatron-Core."""
    folder = tmp_path_factory.mktemp("adder")
    found = adder.write_road(folder, adder.train(folder / "hf"))
    run_base(found)
    return found


def asked(road: Road, folder: Path, **evaluate: Any) -> Road:
    """The same road with nothing evaluated yet, in `folder`, and other keys."""
    if not (folder / "00_base").exists():
        shutil.copytree(road.folder("00_base"), folder / "00_base", symlinks=True)
    raw = road.raw | {"evaluate": road.raw["evaluate"] | evaluate}
    return replace(road, root=folder, raw=raw)


def predictions(road: Road) -> Path:
    return road.folder("70_evaluate") / "before" / "additions" / "predictions.jsonl"


def rows_of(road: Road) -> list[dict[str, Any]]:
    return [json.loads(line) for line in predictions(road).read_text().splitlines()]


def check_same(road: Road, ours: Road, theirs: Road) -> None:
    """Equal rows but for the listed ones, of which there are few."""
    first, second = rows_of(ours), rows_of(theirs)
    gaps = adder.closest_calls(road.folder("00_base") / "hf", first)
    exempt = {identity for identity, gap in gaps.items() if gap < TIE}
    print("exempt:", sorted(exempt), "closest of the others:", min(gaps.values()))
    assert len(exempt) <= 2
    assert [row for row in first if row["id"] not in exempt] == [
        row for row in second if row["id"] not in exempt
    ]
    assert adder.LEARNED <= sum(row["correct"] for row in first) < adder.NUM_ROWS


def test_hugging_face_and_the_checkpoint_batched_and_single(road: Road, tmp_path: Path) -> None:
    found = {}
    for engine in ("hf", "megatron"):
        for batch_size in (16, 1):
            key = f"{engine}-{batch_size}"
            found[key] = asked(road, tmp_path / key, engine=engine, batch_size=batch_size)
            run(found[key])
    for engine in ("hf", "megatron"):
        check_same(road, found[f"{engine}-16"], found[f"{engine}-1"])
    check_same(road, found["hf-16"], found["megatron-16"])
    assert {row["finish"] for row in rows_of(found["hf-16"])} <= {"stop", "length"}


class Killed(Exception):  # noqa: N818
    """Stands for a kill in the middle of the work."""


@pytest.mark.parametrize("name", ["hf", "megatron"])
def test_killed_ten_times_equals_unbroken(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unbroken = asked(road, tmp_path / "unbroken", engine=name, batch_size=1)
    run(unbroken)
    broken = asked(road, tmp_path / "broken", engine=name, batch_size=1)
    kind: type[LocalEngine] = {"hf": HuggingFaceEngine, "megatron": MegatronEngine}[name]
    calls = []

    def dying(self: LocalEngine, requests: Sequence[Request]) -> list[Answer]:
        calls.append(len(requests))
        if len(calls) % 2 == 0:  # each run answers a block and dies in the next
            raise Killed
        return LocalEngine.answer_group(self, requests)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "answer_group", dying, raising=False)
        for _ in range(KILLS):
            with pytest.raises(Killed):
                run(broken)
    run(broken)
    for file in ("70_evaluate/answers.jsonl", str(predictions(broken).relative_to(broken.root))):
        assert (broken.root / file).read_bytes() == (unbroken.root / file).read_bytes()


@pytest.mark.soak
def test_processes_killed_ten_times(road: Road, tmp_path: Path) -> None:
    """SIGKILL to the program itself, as soon as another answer is on the disk."""
    section = json.dumps(road.raw["evaluate"]["benchmarks"])
    command = [sys.executable, "-m", "megatron_math.cli", "evaluate", str(road.yaml_path)]
    command += ["--runs", str(tmp_path / "runs"), "evaluate.engine=megatron"]
    command += ["evaluate.batch_size=1", f"evaluate.benchmarks={section}"]
    asked(road, tmp_path / "runs" / road.name)
    answers = tmp_path / "runs" / road.name / "70_evaluate" / "answers.jsonl"
    kills = 0
    while kills < KILLS:
        known = answers.stat().st_size if answers.is_file() else 0
        with open(tmp_path / "log", "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            if answers.is_file() and answers.stat().st_size > known:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.001)
        if process.wait() != -signal.SIGKILL:
            break  # it was done before the next kill
        kills += 1
    assert subprocess.run(command, check=False).returncode == 0
    assert kills == KILLS, "too few kills: give the model more rows"
    unbroken = asked(road, tmp_path / "unbroken", engine="megatron", batch_size=1)
    run(unbroken)
    killed = replace(road, root=tmp_path / "runs" / road.name)
    assert predictions(killed).read_bytes() == predictions(unbroken).read_bytes()


@pytest.mark.soak
@needs_serve
def test_transformers_serve_gives_the_same_items(road: Road, tmp_path: Path) -> None:
    hf = (road.folder("00_base") / "hf").resolve()
    local = asked(road, tmp_path / "local", engine="hf")
    run(local)
    with served(hf, tmp_path / "log") as url:
        server = {"url": url, "model": str(hf), "api": "completions", "concurrency": 2}
        remote = asked(road, tmp_path / "remote", engine={"server": server})
        run(remote)
    check_same(road, local, remote)
