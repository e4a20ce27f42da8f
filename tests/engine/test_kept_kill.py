"""SIGKILL at random moments: the calls are the plan and what was in flight, and nothing else."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fault_server import FaultServer, answer_text

COUNT = 400
CONCURRENCY = 8
CANARY = "sk-canary-fedcba9876543210"


def prompts_on_disk(folder: Path) -> list[str]:
    path = folder / "answers.jsonl"
    whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
    return [json.loads(line)["request"]["prompt"] for line in whole.splitlines()]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_again_and_again(tmp_path: Path, kills: int) -> None:
    generator = random.Random(11)
    folder = tmp_path / "answers"
    outputs = []
    lost = 0

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).with_name("kept_client.py"))]
        command += [server.url, str(folder), str(COUNT), str(CONCURRENCY)]
        environment = os.environ | {"OPENAI_API_KEY": CANARY}
        with open(tmp_path / "log", "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    with FaultServer(delay_s=0.004) as server:
        for _ in range(kills):
            begun, known = len(server.calls), set(prompts_on_disk(folder))
            kill_at = begun + generator.randrange(1, COUNT // kills)
            client = start()
            server.wait_for(lambda: len(server.calls) >= kill_at, "calls")  # noqa: B023
            os.kill(client.pid, signal.SIGKILL)
            assert client.wait() == -signal.SIGKILL
            server.wait_for(lambda: server.connections == 0, "an idle server")
            asked = [call.prompt for call in server.calls[begun:]]
            assert not known & set(asked), "asked again what was on the disk"
            in_flight = set(asked) - set(prompts_on_disk(folder))
            assert len(in_flight) <= CONCURRENCY
            lost += len(in_flight)
        assert start().wait() == 0
        outputs.append((folder / "out.txt").read_text())
        calls = len(server.calls)
        assert calls == COUNT + lost
        assert start().wait() == 0, "once more, with nothing to do"
        assert len(server.calls) == calls
        outputs.append((folder / "out.txt").read_text())
    assert outputs[0] == outputs[1]
    assert outputs[0].splitlines() == [
        f"{i} {[answer_text(f'prompt {i}', i, sample) for sample in range(2)]}"
        for i in range(COUNT)
    ]
    assert sorted(prompts_on_disk(folder)) == sorted(f"prompt {i}" for i in range(COUNT))
    assert lost > 0, "no kill hit a call in flight; the test shows nothing"
    assert server.calls[-1].headers["authorization"] == f"Bearer {CANARY}"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path
