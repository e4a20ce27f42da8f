"""The doctor: planted faults are named, with what to do; a broken package is not the end of it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_math.cli import main
from megatron_math.device import kernels
from megatron_math.doctor import machine, run
from megatron_math.doctor.imports import import_facts, which_apex
from megatron_math.sandbox.isolation import LAYERS, Layer

GB = 10**9


def plant(folder: Path, name: str, body: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(body)


def plant_web_apex(folder: Path) -> None:
    """As on PyPI: the same name, a toolkit for web logins."""
    plant(folder, "apex", "import velruse\n")
    about = folder / "apex-0.9.10.dev0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: apex\nVersion: 0.9.10\nSummary: toolkit for pyramid\n")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise RuntimeError('libcudart.so.13: cannot open')", "RuntimeError: libcudart"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os\nos._exit(7)", "ended Python with exit code 7"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "crashed with signal 11"),
        ("import time\ntime.sleep(600)", "did not import within 4 s"),
        ("print('{\"name\": \"json\"}')\n__version__ = '9.9'", None),
    ],
)
def test_a_broken_package_is_one_finding_and_the_others_go_on(
    tmp_path: Path, body: str, says: str | None
) -> None:
    plant(tmp_path, "transformer_engine", body)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    names = ["json", "transformer_engine", "textwrap"]
    facts = import_facts(names, seconds=4, environment=environment)
    assert list(facts) == names
    assert "error" not in facts["json"]
    assert "error" not in facts["textwrap"]
    if says is None:
        assert facts["transformer_engine"]["version"] == "9.9"
    else:
        assert says in facts["transformer_engine"]["error"]


def test_pypis_apex_is_told_from_nvidias(tmp_path: Path) -> None:
    assert which_apex([str(tmp_path)]) == "none"
    plant_web_apex(tmp_path / "web")
    assert which_apex([str(tmp_path / "web")]) == "other"
    plant(tmp_path / "real", "apex", "")
    (tmp_path / "real" / "apex" / "optimizers").mkdir()
    assert which_apex([str(tmp_path / "real")]) == "nvidia"
    finding = run.check_apex("other", None, num_gpus=8)
    assert finding.status == "note"
    assert "PyPI's web toolkit" in finding.found
    assert "pip uninstall apex" in finding.advice
    assert run.check_apex("none", None, num_gpus=8).status == "note"
    assert run.check_apex("none", None, num_gpus=0).status == "ok"


def test_the_whole_command_with_planted_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Core falls back beside PyPI's apex, and a broken engine is not used."""
    plant_web_apex(tmp_path)
    plant(tmp_path, "gigatoken", "raise ImportError('no GLIBC')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(run, "PROBED", ("torch", "megatron_math._native", "gigatoken"))
    code = main(["doctor", "--json", "--runs", str(tmp_path / "runs")])
    findings: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    by_name = {finding["name"]: finding for finding in findings}
    assert code == 0, [f for f in findings if f["status"] == "problem"]
    assert "PyPI's web toolkit" in by_name["NVIDIA Apex"]["found"]
    assert "no GLIBC" in by_name["tokenizer engine"]["found"]
    assert "not installed" in by_name["Transformer Engine"]["found"]
    assert by_name["layer spec"]["found"].startswith("torch")
    assert "not used" in by_name["fused Adam"]["found"]
    assert by_name["torch"]["found"].startswith(torch.__version__)
    assert not list(tmp_path.glob(".doctor*"))


def test_a_road_that_asks_for_more_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    road = tmp_path / "road.yaml"
    road.write_text("name: a\nprecision: {spec: te}\n")
    monkeypatch.setattr(run.imports, "import_facts", lambda names: dict.fromkeys(
        names, {"error": "UserError: layer spec te was asked"}
    ))  # fmt: skip
    assert main(["doctor", str(road), "--runs", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "layer spec te was asked" in printed
    assert "-> " in printed


GPUS = {"version": "2.13", "cuda": "13.0", "cudnn": 91000, "nccl": "2.27", "gloo": True}


@pytest.mark.parametrize(
    ("facts", "num_seen", "status", "says"),
    [
        (None, 0, "problem", "not installed"),
        ({"error": "crashed with signal 4"}, 0, "problem", "signal 4"),
        ({**GPUS, "gpus": ["H100", "H100"], "multiplies": True}, 2, "ok", "2 x H100; driver 580"),
        ({**GPUS, "gpus": ["H100"], "multiplies": False}, 1, "problem", "bf16 matrices is wrong"),
        ({**GPUS, "gpus": ["H100"] * 2, "nccl": None}, 2, "problem", "without it"),
        ({**GPUS, "gpus": []}, 8, "problem", "torch sees none"),
        ({**GPUS, "cuda": None, "gpus": []}, 8, "problem", "torch sees none"),
        ({**GPUS, "cuda": None, "gpus": []}, 0, "ok", "runs on the CPU"),
        ({**GPUS, "gpus": [], "gloo": False}, 0, "problem", "without it"),
    ],
)
def test_torch_and_gpus(facts: Any, num_seen: int, status: str, says: str) -> None:
    last = run.check_torch(facts, num_seen, "580.65")[-1]
    assert (last.status, says in last.found) == (status, True), last


def test_core_outside_the_tested_range() -> None:
    assert run.check_core("0.16.1").status == "ok"
    for version in ("0.15.3", "0.20.0", None):
        assert run.check_core(version).status == "problem"


def test_optional_packages() -> None:
    def status(facts: Any, **more: Any) -> str:
        return run.check_optional(
            "x", facts, "pip", **{"needed": False, "num_gpus": 0, **more}
        ).status

    assert status(None) == "ok"
    assert status(None, num_gpus=1) == "note"
    assert status(None, needed=True) == "problem"
    assert status({"version": "2"}) == "ok"
    assert status({"error": "ImportError: a"}) == "note"
    assert status({"error": "ImportError: a"}, needed=True) == "problem"
    (spec,) = run.check_kernels({"error": "ImportError: a"})  # core does not always fall back
    assert (spec.status, spec.found) == ("problem", "ImportError: a")


@pytest.mark.parametrize(
    ("size", "num_gpus", "status"),
    [(64 * 2**20, 8, "problem"), (64 * 2**20, 0, "note"), (None, 1, "note"), (None, 8, "problem"),
     (16 * GB, 8, "ok"), (GB // 2, 1, "note")],
)  # fmt: skip
def test_shared_memory(size: int | None, num_gpus: int, status: str) -> None:
    assert machine.check_shared_memory(size, num_gpus).status == status


@pytest.mark.parametrize(
    ("off", "status", "says"),
    [
        ([], "ok", "untrusted code runs behind user, mount"),
        (["landlock"], "note", "off: landlock: planted"),
        (["seccomp"], "note", "untrusted code is not run here"),
    ],
)
def test_sandbox(off: list[str], status: str, says: str) -> None:
    finding = machine.check_sandbox([Layer(name, name not in off, "planted") for name in LAYERS])
    assert finding.status == status
    assert says in finding.found


def test_limits() -> None:
    def statuses(has_fabric: bool = False, **changed: int) -> dict[str, str]:
        limits = {"nofile": 65536, "memlock": -1, "nproc": -1, "core": 0, **changed}
        found = machine.check_limits(limits, has_fabric=has_fabric)
        return {finding.name.removeprefix("limit "): finding.status for finding in found}

    assert set(statuses().values()) == {"ok"}
    assert statuses(nofile=1024)["nofile"] == "note"
    assert statuses(nofile=64)["nofile"] == "problem"
    assert statuses(nproc=100)["nproc"] == "problem"
    assert statuses(memlock=65536)["memlock"] == "ok"
    assert statuses(has_fabric=True, memlock=65536)["memlock"] == "problem"
    assert statuses(core=-1)["core"] == "note"


def test_clock() -> None:
    now, slept, is_set = machine.read_clock()
    assert machine.check_clock(now, slept, True, now).status == "ok"
    assert machine.check_clock(now, slept, None, now).status == "ok"
    assert machine.check_clock(now, slept, False, now).status == "note"
    assert machine.check_clock(0, slept, is_set, now).status == "problem"  # 1970
    assert machine.check_clock(now, -3.0, is_set, now).status == "problem"


def test_cpu() -> None:
    model, flags = machine.read_cpu("model name\t: A B\nflags\t\t: avx2 avx512f avx512_bf16\n")
    assert [f.status for f in machine.check_cpu(model, flags, 8, 8, 0)] == ["ok", "ok"]
    assert [f.status for f in machine.check_cpu(model, {"avx2"}, 8, 1, 0)] == ["note", "note"]
    assert [f.status for f in machine.check_cpu(model, {"avx2"}, 64, 4, 8)] == ["ok", "note"]
    assert [f.status for f in machine.check_cpu(model, flags, 1, 1, 0)] == ["ok", "ok"]


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = "/dev/a / ext4 rw 0 0\nnas:/x /data nfs4 rw 0 0\nlus /data/fast lustre rw 0 0\n"
    assert machine.file_system(Path("/data/fast/run"), mounts) == "lustre"
    assert machine.file_system(Path("/data/run"), mounts) == "nfs4"
    assert machine.file_system(Path("/database"), mounts) == "ext4"
    assert machine.judge_folder("", "lustre", 900 * GB).status == "ok"
    assert machine.judge_folder("", "nfs4", 900 * GB).status == "note"
    assert machine.judge_folder("", "ext4", 10 * GB).status == "note"
    assert machine.judge_folder("", "lustre", GB // 2).status == "problem"
    assert machine.check_folder(tmp_path / "not" / "yet").status != "problem"
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(22, "fsync")))
    finding = machine.check_folder(tmp_path)
    assert finding.status == "problem"
    assert "fsync" in finding.found
    assert not list(tmp_path.iterdir())


def test_compiler_and_native() -> None:
    assert machine.check_compiler("/usr/bin/g++", has_native=False).status == "ok"
    assert machine.check_compiler(None, has_native=True).status == "note"
    assert machine.check_compiler(None, has_native=False).status == "problem"
    assert run.check_native({"error": "ImportError: GLIBCXX"}).status == "problem"


class WrongAdam(torch.optim.AdamW):
    """Forgets the decay of weights."""

    def __init__(self, parameters: Any, **more: Any) -> None:
        super().__init__(parameters, **{**more, "weight_decay": 0.0})


class AbsentAdam:
    def __init__(self, parameters: Any, **more: Any) -> None:
        raise RuntimeError("apex.optimizers.FusedAdam requires extensions")


def test_a_fused_adam_is_used_only_where_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.core import optimizer as core

    class Right(torch.optim.AdamW):
        pass

    for adam, kind, says in (
        (Right, "cpu", "there is no GPU"),
        (WrongAdam, "cuda", "differ from torch's by"),
        (AbsentAdam, "cuda", "requires extensions"),
        (Right, "cuda", "three steps equal torch's"),
    ):
        monkeypatch.setattr(core, "Adam", adam)
        monkeypatch.setattr(core, "USING_PYTORCH_OPTIMIZER", False)
        monkeypatch.setattr(kernels, "device_kind", lambda kind=kind: kind)
        monkeypatch.setattr(kernels, "current_torch_device", lambda: torch.device("cpu"))
        kernel = kernels.choose_adam()
        assert says in kernel.reason
        assert kernel.used == (says == "three steps equal torch's")
        assert kernel.used != core.USING_PYTORCH_OPTIMIZER
        assert core.Adam is (adam if kernel.used else torch.optim.AdamW)


def test_a_wrong_flash_attention_is_seen() -> None:
    def right(query: Any, key: Any, value: Any, causal: bool) -> torch.Tensor:
        parts = [part.transpose(1, 2) for part in (query, key, value)]
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(parts[0], parts[1], parts[2], is_causal=causal).transpose(1, 2)

    def sees_the_future(query: Any, key: Any, value: Any, causal: bool) -> torch.Tensor:
        return right(query, key, value, False)

    assert kernels._attention_fault(right) is None
    assert "differs" in str(kernels._attention_fault(sees_the_future))
    assert "raises TypeError" in str(kernels._attention_fault(None))
