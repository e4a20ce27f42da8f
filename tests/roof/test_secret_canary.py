"""A whole road among secrets, with crashes: no byte of what it leaves or says has one of them."""

import base64
import contextlib
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from test_bad_input import ROAD

pytestmark = pytest.mark.timeout(900)

SECRETS = {
    "OPENAI_API_KEY": "sk-canary-0d51b2a7c9", "HF_TOKEN": "hf_canary-77aa1c3e5f",
    "WANDB_API_KEY": "wb-canary-5b0c99e1d2",
}  # fmt: skip
IN_URL = "canary-e41f7a60bb"
UMASK = 0o027

FAULTS = '''
"""Read by Python at its start: breaks a module as soon as it is imported."""
import importlib.machinery, os, sys

KEY = os.environ["OPENAI_API_KEY"]
WHAT = f"cannot ask https://me:{IN_URL}@engine/v1?api_key={IN_URL} with {KEY}"

def in_a_rank(module):
    real = module.one_iteration
    def one_iteration(run, progress, stop):
        if progress.iteration == 3 and run.trainee.device.rank == 1:
            raise RuntimeError(WHAT + os.environ["HF_TOKEN"])
        return real(run, progress, stop)
    module.one_iteration = one_iteration

def in_the_engine(module):
    def generate(self, *arguments, **named):
        raise ConnectionError(WHAT)
    module.HuggingFaceEngine.answer_group = generate

def slowly(module):
    real = module.one_iteration
    def one_iteration(*arguments):
        __import__("time").sleep(0.3)
        return real(*arguments)
    module.one_iteration = one_iteration

FAULTS = {
    "rank": ("megatron_math.train.loop", in_a_rank),
    "engine": ("megatron_math.engine.hf", in_the_engine),
    "slow": ("megatron_math.train.loop", slowly),
}

class Finder:
    def find_spec(name, path=None, target=None):
        module, breaks = FAULTS.get(os.environ.get("PLANTED_FAULT"), (None, None))
        if name != module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        real = spec.loader.exec_module
        def exec_module(loaded):
            real(loaded)
            breaks(loaded)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder)
'''


class Place:
    """Where the road is walked, with all that processes may write to below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = b""
        for name in ("home", "tmp", "work", "faults"):
            (folder / name).mkdir()
        (folder / "faults" / "sitecustomize.py").write_text(f"IN_URL = {IN_URL!r}\n{FAULTS}")
        road = json.loads(json.dumps(ROAD))
        road["parallel"] = {"data": 2}
        road["train"] |= {"tensorboard": True, "validation_samples": 2, "validation_interval": 5}
        road["checkpoint"] = {"interval": 2}
        road["evaluate"] = {
            "benchmarks": [
                {"name": "heldout_templates", "stage": "10_synthesize", "max_new_tokens": 4}
            ]
        }
        road["report"] = {}
        (folder / "work" / "road.yaml").write_text(yaml.safe_dump(road))

    def start(self, *arguments: str, fault: str = "") -> subprocess.Popen[bytes]:
        repository = Path(__file__).resolve().parents[2]
        path = os.pathsep.join([str(self.folder / "faults"), str(repository)])
        own = {
            "HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"),
            "XDG_CACHE_HOME": str(self.folder / "home/.cache"), "PLANTED_FAULT": fault,
            "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "megatron_math.cli", *arguments],
            cwd=self.folder / "work", env=os.environ | SECRETS | own, umask=UMASK,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str, fault: str = "") -> tuple[int, str]:
        process = self.start(*arguments, fault=fault)
        said, _ = process.communicate(timeout=600)
        self.said += said
        return process.returncode, said.decode()

    def kill_in_training(self) -> None:
        """SIGKILL to everything once some steps are logged."""
        process = self.start("train", "road.yaml", fault="slow")
        metrics = self.folder / "work/runs/road/50_train/metrics.jsonl"
        while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size > 2_000):
            time.sleep(0.05)
        assert process.poll() is None, "it ended before it could be killed"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        self.said += process.communicate()[0]


def files_of(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file() and p.name != "sitecustomize.py")


def spellings() -> list[bytes]:
    whole = [*SECRETS.values(), IN_URL]
    return [text.encode() for text in whole] + [
        base64.b64encode(text.encode()).rstrip(b"=")[:-1] for text in whole
    ]


def leaks(folder: Path, said: bytes) -> list[str]:
    """Where a secret stands."""
    found = [f"said: {s!r}" for s in spellings() if s in said]
    for path in files_of(folder):
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data += gzip.decompress(data)
        found += [f"{path.relative_to(folder)}: {s!r}" for s in spellings() if s in data]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The road walked to its end, with three crashes on the way."""
    place = Place(tmp_path_factory.mktemp("canary"))
    url = f"https://me:{IN_URL}@engine/v1"
    code, said = place.run("run", "road.yaml", f"train.wandb={{project: '{url}'}}")
    assert code == 2
    assert "train.wandb.project is a URL with a password or key" in said
    code, said = place.run("run", "road.yaml", "name=${HF_TOKEN}")
    assert code == 2
    assert "name holds the value of HF_TOKEN" in said

    code, said = place.run("run", "road.yaml", "--to", "train", fault="rank")
    assert code == 1, said
    masked = "https://***@engine/v1?api_key=*** with <OPENAI_API_KEY><HF_TOKEN>"
    assert f"RuntimeError: cannot ask {masked}" in said
    place.kill_in_training()
    code, said = place.run("run", "road.yaml", fault="engine")
    assert code == 1, said
    assert "ConnectionError: cannot ask https://***@engine" in said
    code, said = place.run("run", "road.yaml")
    assert code == 0, said
    return place


def test_the_road_came_to_its_end(place: Place) -> None:
    root = place.folder / "work/runs/road"
    assert (root / "80_report" / "DONE").is_file()
    rows = (root / "50_train" / "metrics.jsonl").read_text().splitlines()
    numbers = [json.loads(row)["iteration"] for row in rows]
    assert numbers == list(range(1, len(rows) + 1))


def test_no_secret_is_left_anywhere(place: Place) -> None:
    assert len(list(files_of(place.folder))) > 50
    assert leaks(place.folder, place.said) == []


def test_what_is_looked_for_is_seen(place: Place, tmp_path: Path) -> None:
    secret = SECRETS["HF_TOKEN"].encode()
    (tmp_path / "plain").write_bytes(b"x" + secret + b"x")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(secret))
    (tmp_path / "coded").write_bytes(base64.b64encode(secret))
    assert {leak.split(":")[0] for leak in leaks(tmp_path, b"")} == {"plain", "packed.gz", "coded"}
    assert leaks(tmp_path / "none", IN_URL.encode())


def test_files_are_as_private_as_the_umask_says(place: Place) -> None:
    open_to_others = [
        f"{path.relative_to(place.folder)}: {stat.filemode(path.lstat().st_mode)}"
        for root in ("work/runs", "tmp", "home")
        for path in (place.folder / root).rglob("*")
        if not path.is_symlink() and path.stat().st_mode & UMASK
    ]
    assert open_to_others == []
    readable = [
        path for path in files_of(place.folder / "work/runs") if path.stat().st_mode & 0o040
    ]
    assert len(readable) > 40  # nor are they more private than that


def test_no_image_of_the_memory_is_left(place: Place) -> None:
    assert not [path for path in files_of(place.folder) if path.name.startswith("core")]
