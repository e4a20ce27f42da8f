"""SIGKILL at random moments: the same records as an unbroken run, and nothing paid twice but what
was in flight at a kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import toy_arithmetic as toy
from fault_server import FaultServer
from method_roads import ENGINES, Written, check_counts, load, write_road

from megatron_math.synthesize import run as room

COUNT = 120
CONCURRENCY = 8


def key(prompt, seed):
    return prompt, seed


def on_disk(folder):
    """What has a line in one of the answer files."""
    found = set()
    for path in folder.glob("answers/*/answers.jsonl"):
        whole = path.read_bytes().rpartition(b"\n")[0]
        for line in whole.splitlines():
            request = json.loads(line)["request"]
            found.add(key(request["prompt"], request["seed"]))
    return found


@pytest.mark.parametrize(
    ("method", "kills"),
    [
        ("tutorship", 10),
        *(pytest.param(method, 10, marks=pytest.mark.soak) for method in ENGINES),
        pytest.param("tutorship", 50, marks=pytest.mark.soak),
    ],
)
def test_killed_again_and_again(tmp_path, method, kills):
    generator = random.Random(method)
    seeds = tmp_path / "seeds.jsonl"
    toy.write_seeds(seeds, COUNT)
    with FaultServer(reply=toy.reply) as server:
        unbroken = Written(room.run(load(write_road(tmp_path, method, seeds, server.url))).folder)
        plan = len(server.calls)
    lost = 0
    with FaultServer(delay_s=0.01, reply=toy.reply) as server:
        road = write_road(tmp_path, method, seeds, server.url, name="killed")
        folder = load(road).folder(room.STAGE)

        def start():
            command = [sys.executable, "-m", "megatron_math.cli", "synthesize", str(road)]
            command += ["--runs", str(tmp_path / "runs")]
            with open(tmp_path / "log", "ab") as log:
                return subprocess.Popen(command, env=os.environ, stdout=log, stderr=log)

        for number in range(kills):
            begun, known = len(server.calls), on_disk(folder)
            kill_at = begun + generator.randrange(1, max(2, (plan - begun) // (kills - number)))
            client = start()
            while len(server.calls) < kill_at and client.poll() is None:
                time.sleep(0.002)
            client.send_signal(signal.SIGKILL)
            assert client.wait() == -signal.SIGKILL, "it ended before the kill"
            server.wait_for(lambda: server.connections == 0, "an idle server")
            asked = {key(call.prompt, call.body.get("seed")) for call in server.calls[begun:]}
            assert not known & asked, "asked again what was on the disk"
            in_flight = asked - on_disk(folder)
            assert len(in_flight) <= CONCURRENCY * len(ENGINES[method])
            lost += len(in_flight)
            assert not (folder / "DONE").exists()
        assert start().wait() == 0, (tmp_path / "log").read_text()
        assert len(server.calls) == plan + lost
        calls = Counter(key(call.prompt, call.body.get("seed")) for call in server.calls)
        assert sum(calls.values()) - len(calls) == lost
        assert start().wait() == 0, "once more, with nothing to do"
        assert len(server.calls) == plan + lost
    killed = Written(folder)
    assert killed.texts() == unbroken.texts()
    assert killed.stats == unbroken.stats
    check_counts(killed, COUNT)
    assert lost > 0, "no kill hit a call in flight; the test shows nothing"


def test_sigterm_waits_for_what_is_in_flight(tmp_path):
    seeds = tmp_path / "seeds.jsonl"
    toy.write_seeds(seeds, COUNT)
    with FaultServer(delay_s=0.05, reply=toy.reply) as server:
        road = write_road(tmp_path, "expansion", seeds, server.url)
        command = [sys.executable, "-m", "megatron_math.cli", "synthesize", str(road)]
        command += ["--runs", str(tmp_path / "runs")]
        client = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        server.wait_for(lambda: len(server.calls) >= 30, "calls")
        client.send_signal(signal.SIGTERM)
        _, error = client.communicate(timeout=60)
        assert client.returncode == 75, error
        assert "SIGTERM" in error
        asked = len(server.calls)
        assert asked < COUNT
        assert len(on_disk(load(road).folder(room.STAGE))) == asked
        assert subprocess.run(command, check=False).returncode == 0
        assert len(server.calls) == COUNT
