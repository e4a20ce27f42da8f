"""The miniature of JiuZhang3.0's loop: one command, a teacher behind a real HTTP server, 53 + 40
calls, a synthesis model that is trained, exported and asked, and every item's way back to its text.
"""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fault_server import FaultServer
from served import needs_serve, served

from megatron_math.base.records import read_records
from megatron_math.cli import main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "51_jiuzhang3_loop"
PLAN = 53, 40
QUICK = [  # in `make test`: less training (the boosted model goes on from the first), less to write
    "roads.synthesizer.blend.mix.first.epochs=25",
    "roads.reference.blend.mix.items.epochs=1",
    "roads.synthesizer_boosted.base={run: ../synthesizer}",
    "roads.synthesizer_boosted.model={}",
    "roads.synthesizer_boosted.index.tokenizer=base",
    "roads.synthesizer_boosted.blend.mix.first.epochs=3",
    "roads.synthesizer_boosted.blend.mix.second.epochs=3",
    "roads.corpus.synthesize.limit=40",
]
WRITTEN = ("problems.jsonl", "distilled.jsonl", "drops/problems.jsonl")


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"miniature_{name}", EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The folder of a loop, with its texts."""
    load_script("texts").write_texts(tmp_path / "texts")
    monkeypatch.setenv("MINIATURE_TEXTS", str(tmp_path / "texts"))
    monkeypatch.setenv("MINIATURE_PROMPTS", str(EXAMPLE / "miniature_prompts"))
    return tmp_path


def command(world, *more):
    return ["run", str(EXAMPLE / "miniature.yaml"), "--runs", str(world / "runs"), *more]


class Loop:
    """What a finished loop wrote."""

    def __init__(self, world):
        self.texts = world / "texts"
        self.folder = world / "runs" / "jiuzhang3_miniature"

    def stage(self, road):
        return self.folder / road / "10_synthesize"

    def records(self, road):
        return list(read_records(self.stage(road) / "problems.jsonl"))

    def stats(self, road):
        return json.loads((self.stage(road) / "stats.json").read_text())

    def bytes(self):
        roads = ("first", "items", "second", "corpus")
        return {(r, name): (self.stage(r) / name).read_bytes() for r in roads for name in WRITTEN}

    def check_plan(self):
        for road, plan in zip(("first", "second"), PLAN, strict=True):
            cost = self.stats(road)["cost"]["engine"]
            assert (cost["calls"], cost["requests"], cost["answered"]) == (plan, plan, plan)

    def check_lineage(self):
        """From the texts to the final records, through each file between them."""
        texts = {
            (path.stem, row["id"]): row
            for path in self.texts.glob("*.jsonl")
            for row in map(json.loads, path.read_text().splitlines())
            if "id" in row
        }
        exports = {"items": "synthesizer", "corpus": "synthesizer_boosted"}
        for road in ("first", "items", "second", "corpus"):
            records = self.records(road)
            pairs = list(read_records(self.stage(road) / "distilled.jsonl"))
            answers = {}
            for line in (
                (self.stage(road) / "answers/engine/answers.jsonl").read_text().splitlines()
            ):
                row = json.loads(line)
                answers[row["request"]["prompt"]] = row["generations"][0]["text"]
            assert len(pairs) == len(records)
            for record, pair in zip(records, pairs, strict=True):
                about = record.meta["excerpt"]
                row = texts[about["source"], about["id"]]
                for key, begin, end in about["spans"]:
                    assert row[key][begin:end] in pair.problem
                assert pair.meta["record"] == record.id
                assert answers[pair.problem] == pair.solution
                assert record.problem in pair.solution
                if road in exports:
                    assert record.meta["model"] == f"{exports[road]}/60_export/hf"
                if record.meta["stage"] == "tool":
                    assert record.meta["outcome"] == "ok"
                    assert "```output\n" in record.solution
        first = {record.meta["seed_id"].partition("@")[0] for record in self.records("first")}
        items = {record.id: record for record in self.records("items")}
        assert not first & {r.meta["seed_id"].partition("@")[0] for r in items.values()}
        kept = list(read_records(self.folder / "select/20_curate/items.jsonl"))
        assert len(kept) == PLAN[1]
        for record in kept:
            item = items[record.id]
            assert (record.problem, record.solution) == (item.problem, item.solution)
            assert record.meta == item.meta
        second = self.records("second")
        asked = {(record.meta["seed_id"], record.meta["stage"]) for record in kept}
        assert {(record.meta["seed_id"], record.meta["stage"]) for record in second} <= asked
        documents = self.folder / "synthesizer_boosted/30_index"
        ids = (documents / "second_text_document.ids").read_bytes()
        assert all(f"distilled-{record.id}".encode() in ids for record in second)


def test_one_command(world, monkeypatch):
    with FaultServer(reply=load_script("teacher").reply) as server:
        monkeypatch.setenv("TEACHER_URL", server.url)
        assert main(command(world, *QUICK)) == 0
        assert len(server.calls) == sum(PLAN)
        assert len({call.prompt for call in server.calls}) == sum(PLAN), "a text was paid twice"
        loop = Loop(world)
        written = loop.bytes()
        assert main(command(world, *QUICK)) == 0, "once more, with nothing to do"
        assert len(server.calls) == sum(PLAN)
    assert loop.bytes() == written
    loop.check_plan()
    loop.check_lineage()
    assert loop.stats("first")["accepted"] == PLAN[0]
    assert loop.stats("second")["accepted"] == PLAN[1]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_killed_again_and_again(world, monkeypatch, tmp_path_factory):
    """SIGKILL of the whole process group at random moments of the loop: the same records."""
    rng = random.Random(2405)
    with FaultServer(reply=load_script("teacher").reply) as server:
        monkeypatch.setenv("TEACHER_URL", server.url)
        assert main(command(world, *QUICK)) == 0
    unbroken = Loop(world)
    unbroken.check_plan()
    other = tmp_path_factory.mktemp("killed")
    (other / "texts").symlink_to(world / "texts")
    kills, kill_after_calls = 0, [20, 70]  # then anywhere
    with FaultServer(delay_s=0.05, reply=load_script("teacher").reply) as server:
        monkeypatch.setenv("TEACHER_URL", server.url)
        line = [sys.executable, "-m", "megatron_math.cli", *command(other, *QUICK)]
        while True:
            with open(other / "log", "ab") as log:
                client = subprocess.Popen(
                    line, env=os.environ, stdout=log, stderr=log, start_new_session=True
                )
            wait_s, began = rng.uniform(6, 20) if kills < 6 else 300, time.monotonic()
            while client.poll() is None and time.monotonic() - began < wait_s:
                if kill_after_calls and len(server.calls) >= kill_after_calls[0]:
                    kill_after_calls.pop(0)
                    break
                time.sleep(0.01)
            if client.poll() is not None:
                assert client.returncode == 0, (other / "log").read_text()[-3000:]
                break
            os.killpg(client.pid, signal.SIGKILL)
            client.wait()
            kills += 1
            assert kills <= 8, "it does not come to its end"
            server.wait_for(lambda: server.connections == 0, "an idle server")
        calls = Counter(call.prompt for call in server.calls)
        assert len(calls) == sum(PLAN)
        lost = sum(calls.values()) - len(calls)
    assert kills >= 3
    assert not kill_after_calls
    assert 0 < lost <= 2 * 8, "more was asked twice than what was in flight, or nothing was killed"
    assert Loop(other).bytes() == unbroken.bytes()


@pytest.mark.soak
@pytest.mark.timeout(900)
@needs_serve
def test_a_real_server_with_the_model_of_a_loop_before(world, monkeypatch, tmp_path_factory):
    """The boosted model of one loop, served by transformers, is the greedy teacher of the next."""
    with FaultServer(reply=load_script("teacher").reply) as server:
        monkeypatch.setenv("TEACHER_URL", server.url)
        assert main(command(world, "roads.corpus.synthesize.limit=40")) == 0
    model = Loop(world).folder / "synthesizer_boosted/60_export/hf"
    with served(model, world / "serve.log") as url:
        monkeypatch.setenv("TEACHER_URL", url)
        monkeypatch.setenv("TEACHER_MODEL", str(model))
        monkeypatch.setenv("TEACHER_API", "completions")
        other = tmp_path_factory.mktemp("next")
        (other / "texts").symlink_to(world / "texts")
        parsed = "synthesize.accept={all: [runs]}"
        again = [f"roads.{road}.{parsed}" for road in ("first", "second")]
        assert main(command(other, *QUICK, *again)) == 0
    loop = Loop(other)
    loop.check_plan()
    loop.check_lineage()
    assert loop.stats("first")["accepted"] >= PLAN[0] // 2
