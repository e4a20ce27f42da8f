"""tools/gpu_check.py in miniature, and that it would see what it is there to see."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from megatron_math.base.errors import UserError
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.gpu_check import parity, run, speed, units
from megatron_math.gpu_check.page import page
from megatron_math.gpu_check.rows import compared, faults
from megatron_math.gpu_check.settings import PARTS, in_miniature, on_gpu
from megatron_math.gpu_check.trainee import build_trainee
from megatron_math.model import head, layers
from megatron_math.train.optimizer import check_gradients
from megatron_math.train.step import train_step

MINI = in_miniature()


# --- What is planted is seen --------------------------------------------------------------------


def unit_rows() -> list[dict]:
    with open_device(Grid(), seed=1):
        return [
            *units.norm_rows(torch.float32),
            *units.attention_rows(torch.float32, 48),
            *units.loss_rows(torch.float32),
        ]


def wrong_norm(original, hidden, shape, eps):
    return original(hidden, shape, eps=100 * eps)


def wrong_groups(original, query, key, value, **how):
    """Query head n takes key head n mod G, where n // (N/G) is right."""
    ways = query.shape[1] // key.shape[1]
    key, value = key.repeat(1, ways, 1, 1), value.repeat(1, ways, 1, 1)
    return original(query, key, value, **how)


def other_documents(original, ids_BS, window):
    return original(torch.zeros_like(ids_BS), window)


def wrong_gradient(original, logits_KV, *given):
    loss_K = original(logits_KV, *given)
    logits_KV *= 1.01
    return loss_K


def not_a_number(original, *given):
    return original(*given) * float("nan")


@pytest.mark.parametrize(
    ("owner", "name", "fault", "found"),
    [
        (None, "", None, ()),
        (torch.nn.functional, "rms_norm", wrong_norm, ("norm",)),
        (torch.nn.functional, "scaled_dot_product_attention", wrong_groups, ("4 on 2",)),
        (layers, "same_document_mask", other_documents, ("under a mask", "window")),
        (head, "_cross_entropy", wrong_gradient, ("output layer and loss",)),
        (head, "_cross_entropy", not_a_number, ("output layer and loss",)),
    ],
)
def test_a_wrong_kernel_is_found_and_no_other(monkeypatch, owner, name, fault, found) -> None:
    if fault is not None:
        monkeypatch.setattr(owner, name, partial(fault, getattr(owner, name)))
    rows = unit_rows()
    wrong = [row["what"] for row in faults(rows)]
    assert len(rows) == 7
    for part in found:
        assert any(part in what for what in wrong), (part, wrong)
    assert all(any(part in what for part in found) for what in wrong), wrong


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    rows: list[dict] = []
    parity.write_reference(MINI, folder, rows.extend)
    assert not faults(rows)
    return folder


def model_rows(folder: Path) -> list[dict]:
    rows: list[dict] = []

    def save(so_far: list[dict]) -> None:
        rows[:] = so_far

    parity.check_model(MINI, folder, save)
    return rows


def test_a_model_agrees_with_the_reference_and_a_wrong_one_does_not(reference, monkeypatch) -> None:
    rows = model_rows(reference)
    assert len(rows) == 10
    assert not faults(rows), faults(rows)
    right = torch.nn.functional.scaled_dot_product_attention

    def too_sharp(query, *others, **how):
        return right(1.05 * query, *others, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", too_sharp)
    wrong = [row["what"] for row in faults(model_rows(reference)) if "fp32" in row["what"]]
    assert any("logits" in what for what in wrong), wrong
    assert any("all gradients" in what for what in wrong), wrong
    assert any("losses" in what for what in wrong), wrong


def test_a_number_that_is_none_is_a_failure() -> None:
    assert compared("x", float("nan"), 1.0)["ok"] is False
    assert parity.worst_step([1.0, float("nan")], [1.0, 1.0]) != 0
    row = compared("x", parity.worst_step([1.0, float("nan")], [1.0, 1.0]), 1.0)
    assert row["ok"] is False


def test_gap_of_fp8() -> None:
    losses = {"bf16": [9.0, 2.0], "tensorwise": [9.0, 2.01], "delayed": [9.0, 3.0],
              "blockwise": [9.0, 2.0]}  # fmt: skip
    gaps = {name: parity._gap_row(name, name, losses) for name in losses}
    assert gaps["bf16"] == []
    assert gaps["tensorwise"][0]["ok"]
    assert gaps["tensorwise"][0]["gap"] == pytest.approx(0.01 / 11)
    assert not gaps["delayed"][0]["ok"]
    assert "last digit" in gaps["blockwise"][0]["failed"]  # then nothing was cast


# --- Speed --------------------------------------------------------------------------------------


def test_checks_find_what_they_look_for_and_cost_only_when_on() -> None:
    with open_device(Grid(), seed=1) as device:
        setup = replace(MINI.small, dtype="bf16")
        trainee = build_trainee(setup, device, lr=1e-4, steps=1)
        with torch.no_grad():
            next(trainee.models[0].parameters()).fill_(float("nan"))
        check_gradients(trainee.models, on=False)
        train_step(trainee, 0, lr=1e-4, weight_decay=0.1)
        check_gradients(trainee.models, on=True)
        with pytest.raises(RuntimeError, match="NaN in local grad norm"):
            train_step(trainee, 1, lr=1e-4, weight_decay=0.1)


def test_what_cannot_fit_is_passed_over_and_said(monkeypatch) -> None:
    case = MINI.speed["speed-8b-bf16"]
    large, small = (speed.expected_bytes(speed.rung_setup(case, rung)) for rung in (0, 1))
    assert small < large
    memory = {"memory_bytes": int(small / 1.01), "name": "CPU"}
    monkeypatch.setattr(speed, "device_facts", lambda: memory)
    rows: list[dict] = []
    speed.measure(replace(case, pairs=2), 0, lambda so_far: rows.__setitem__(slice(None), so_far))
    passed, measured = rows
    assert "estimate" in passed["skipped"]
    assert (measured["layers"], measured["all_layers"], measured["rung"]) == (2, 3, 1)
    assert len(measured["seconds_with_checks"]) == len(measured["seconds_without_checks"]) == 2
    share = measured["extrapolated_tokens_per_second"] / measured["tokens_per_second"]
    assert 2 / 3 < share < 1  # the output layer is in both
    assert "not measured" in measured["extrapolation"]


def test_a_gpu_is_found_by_the_name_of_its_driver() -> None:
    names = ("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA T4")
    known = [speed.known_gpu(name) for name in names]
    assert [gpu and gpu.peak_flops["bf16"] for gpu in known] == [989e12, 989e12, 312e12, None]


def test_the_whole_8b_model_is_tried_on_an_h200(monkeypatch) -> None:
    """With Transformer Engine; without it as many layers as the state in fp32 leaves room for."""
    memory = 150_754_820_096
    for te_is_missing, num_layers in ((None, 32), ("not installed", 20)):
        monkeypatch.setattr(speed, "without_te", lambda missing=te_is_missing: missing)
        case = on_gpu().speed["speed-8b-bf16"]
        setups = (speed.rung_setup(case, rung) for rung in range(len(case.rungs)))
        fitting = (
            setup
            for setup in (replace(s, half_state=te_is_missing is None) for s in setups)
            if speed.expected_bytes(setup) <= memory
        )
        assert next(fitting).overrides["num_layers"] == num_layers


# --- Parts that end badly -----------------------------------------------------------------------

FAKE = """
import json, os, subprocess, sys, time
part, folder = sys.argv[1:3]
def save(rows, **more):
    answer = {"rows": rows, "finished": True} | more
    open(os.path.join(folder, part + ".json"), "w").write(json.dumps(answer))
if part == "machine":
    save([{"what": "machine", "kind": "cpu"}])
elif part == "units":
    save([{"what": "norm", "ok": True, "error": 0.0, "limit": 1.0}], finished=False)
    print("about to crash", flush=True)
    os.abort()
elif part == "speed-8b-bf16":
    print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
    time.sleep(600)
elif part == "reference":
    save([{"what": "reference", "ok": True}])
elif part == "model":
    save([{"what": "logits", "ok": False, "error": 1.0, "limit": 0.1}])
elif part == "te":
    sys.exit(7)
else:
    save([{"what": part, "skipped": "not here"}])
"""


def test_a_crash_and_a_hang_are_reported_and_the_others_survive(tmp_path, monkeypatch) -> None:
    limits = dict(MINI.limits) | {"speed-8b-bf16": 1.0}
    monkeypatch.setattr(run, "in_miniature", lambda: replace(MINI, limits=limits))
    monkeypatch.setattr(run, "SHORTEST", 0.0)
    on_disk = []

    def start(part, size, folder, more):
        if (folder / run.RESULT).is_file():  # written after each part
            on_disk.append(len(json.loads((folder / run.RESULT).read_text())["parts"]))
        return [sys.executable, "-S", "-c", FAKE, part, str(folder)]

    result = run.check(tmp_path, minutes=1, page_path=tmp_path / "page.md", start=start)
    ended = {name: part["status"] for name, part in result["parts"].items()}
    assert ended == dict.fromkeys(PARTS, "skipped") | {
        "machine": "passed", "units": "crashed", "speed-8b-bf16": "timed out",
        "reference": "passed", "model": "failed", "te": "crashed",
    }  # fmt: skip
    assert on_disk == list(range(1, 10))
    units_part = result["parts"]["units"]
    assert "SIGABRT" in units_part["reason"]
    assert units_part["rows"][0]["what"] == "norm"  # what it had found by then
    assert "about to crash" in units_part["last_lines"]
    sleeper = int(result["parts"]["speed-8b-bf16"]["last_lines"][-1])
    for _ in range(100):
        if not is_running(sleeper):
            break
        time.sleep(0.05)
    assert not is_running(sleeper)  # the hung part's children went with it
    assert run.has_faults(result)
    text = (tmp_path / "page.md").read_text()
    for name in PARTS:
        assert f"* {name}: {ended[name]}" in text
    assert "**wrong**" in text
    assert "exit code 7" in text


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_without_time_or_reference_parts_are_skipped_with_the_reason(tmp_path) -> None:
    def start(part, size, folder, more):
        return [sys.executable, "-S", "-c", "import os; os.abort()"]

    result = run.check(tmp_path, minutes=0, start=start)
    reasons = [part["rows"][0]["skipped"] for part in result["parts"].values()]
    assert set(reasons) == {
        "no time was left",
        "part reference, which it is compared with, was skipped",
    }
    assert not run.has_faults(result)
    with pytest.raises(UserError, match="no part 'modle'"):
        run.check(tmp_path, minutes=0, parts=["modle"])


def test_the_next_rung_follows_out_of_memory() -> None:
    asked = []

    def attempt(rung: int, seconds: float) -> dict:
        asked.append(rung)
        taken = max(rung, 1)  # the first is passed over as too large
        status = "passed" if taken == 3 else "out of memory"
        return {"status": status, "rows": [{"what": f"rung {taken}", "rung": taken}]}

    found = run.climb(5, attempt, 60)
    assert asked == [0, 2, 3]
    assert found["status"] == "passed"
    assert [row["rung"] for row in found["tried"]] == [1, 2]
    assert run.climb(2, attempt, 60)["status"] == "out of memory"


# --- The script ---------------------------------------------------------------------------------


def script(folder: Path, *arguments: str) -> dict:
    """gpu_check.json of a run that found no fault."""
    tool = Path(__file__).parents[2] / "tools" / "gpu_check.py"
    command = [sys.executable, str(tool), "--out", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return json.loads((folder / run.RESULT).read_text())


def test_the_script_in_miniature(tmp_path) -> None:
    path = tmp_path / "gpu.md"
    result = script(tmp_path, "--page", str(path), "--parts", "speed-8b-bf16")
    assert result["size"] == "miniature"
    row = result["parts"]["speed-8b-bf16"]["rows"][-1]
    assert row["tokens_per_second"] > 0
    assert row["layers"] == 3
    assert result["parts"]["te"]["rows"][0]["skipped"] == "not asked for"
    text = path.read_text()
    assert text == page(result)
    assert "no GPU was at hand" in text


@pytest.mark.soak
def test_all_parts_in_miniature(tmp_path) -> None:
    result = script(tmp_path)
    ended = {name: part["status"] for name, part in result["parts"].items()}
    assert set(ended.values()) <= {"passed", "skipped"}
    ours = ("machine", "units", "reference", "model", "speed-8b-bf16", "speed-1b-bf16")
    assert {ended[name] for name in ours} == {"passed"}
    for name, part in result["parts"].items():
        assert part["rows"], name
