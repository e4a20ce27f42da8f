"""All parts one after the other, each in a process of its own, under one budget. Torch-free."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json, write_text
from megatron_math.base.log import log
from megatron_math.device.start import lone_process
from megatron_math.gpu_check.page import page
from megatron_math.gpu_check.rows import Row, faults, skipped
from megatron_math.gpu_check.settings import PARTS, Settings, in_miniature, on_gpu

NEEDS = {"model": "reference", "te": "reference", "fp8": "reference"}
SHORTEST = 10.0
"""Seconds under which no part is begun: Python has not loaded torch by then."""
RESULT = "gpu_check.json"
BAD = ("failed", "crashed", "timed out")

Start = Callable[[str, str, Path, Sequence[str]], Sequence[str]]


def child_command(part: str, size: str, folder: Path, more: Sequence[str]) -> list[str]:
    """The process of one part."""
    child = "megatron_math.gpu_check.child"
    return [sys.executable, "-m", child, part, size, str(folder), *more]


def check(
    folder: Path,
    *,
    minutes: float,
    parts: Sequence[str] = PARTS,
    miniature: bool | None = None,
    page_path: Path | None = None,
    start: Start = child_command,
) -> dict[str, Any]:
    """Run `parts`, in the order of PARTS, and write `folder`/gpu_check.json after each.

    Part machine always runs; miniature: None takes the full sizes where it sees a GPU. Raises
    UserError for an unknown part. The answer is what was written; `has_faults` tells whether
    something is wrong.
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise UserError(f"no part {unknown[0]!r}; parts: {', '.join(PARTS)}")
    end = time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": minutes,
        "size": "full" if miniature is False else "miniature",
        "parts": {},
    }
    for name in PARTS:
        if name != "machine" and name not in parts:
            result["parts"][name] = {"status": "skipped", "rows": [skipped(name, "not asked for")]}
            continue
        settings = in_miniature() if result["size"] == "miniature" else on_gpu()
        result["parts"][name] = _part(name, settings, result, folder, end, start)
        if name == "machine" and miniature is None:
            rows = result["parts"][name]["rows"]
            result["size"] = "full" if rows and rows[0].get("kind") == "gpu" else "miniature"
        write_json(folder / RESULT, result)
        status = result["parts"][name]
        log.info("%s: %s in %.0f s", name, status["status"], status.get("seconds", 0))
    write_json(folder / RESULT, result)
    if page_path is not None:
        write_text(page_path, page(result))
    return result


def has_faults(result: Mapping[str, Any]) -> bool:
    """Whether a part crashed, hung, or broke a limit. What was skipped is no fault."""
    return any(part["status"] in BAD for part in result["parts"].values())


def _part(
    name: str,
    settings: Settings,
    result: Mapping[str, Any],
    folder: Path,
    end: float,
    start: Start,
) -> dict[str, Any]:
    """Status, rows and seconds of one part."""
    needed = NEEDS.get(name)
    if needed is not None:
        status = result["parts"][needed]["status"]
        if status != "passed":
            reason = f"part {needed}, which it is compared with, was {status}"
            return {"status": "skipped", "rows": [skipped(name, reason)]}
    size = result["size"]
    limit = settings.limits[name]
    if name not in settings.speed:
        return run_child(name, start(name, size, folder, ()), folder, limit, end,
                         sees_gpu=name != "reference")  # fmt: skip
    return climb(
        len(settings.speed[name].rungs),
        lambda rung, seconds: run_child(
            name, start(name, size, folder, (str(rung),)), folder, seconds, end
        ),
        limit,
    )


def climb(
    num_rungs: int, attempt: Callable[[int, float], dict[str, Any]], limit: float
) -> dict[str, Any]:
    """Attempts from the first rung on until one is not out of memory, all within `limit` seconds.

    An attempt may pass over rungs; its last row names the one that it took. The answer is the last
    attempt's; `tried` holds the rows of those before.
    """
    tried: list[Row] = []
    started = time.monotonic()
    found: dict[str, Any] = {"status": "skipped", "rows": [skipped("speed", "no rung fits")]}
    rung = 0
    while rung < num_rungs:
        found = attempt(rung, limit - (time.monotonic() - started))
        if found["status"] != "out of memory":
            break
        tried += found["rows"]
        rung = int(found["rows"][-1]["rung"]) + 1
    return found | {"tried": tried, "seconds": time.monotonic() - started}


def run_child(
    name: str,
    command: Sequence[str],
    folder: Path,
    limit: float,
    end: float,
    *,
    sees_gpu: bool = True,
) -> dict[str, Any]:
    """Run one process for at most `limit` seconds and not behind `end`; kill it with its children.

    What it had written by then is kept in `rows`; what it printed is in `folder`/PART.log.
    """
    limit = min(limit, end - time.monotonic())
    if limit < SHORTEST:
        return {"status": "skipped", "rows": [skipped(name, "no time was left")], "seconds": 0.0}
    answer_path, log_path = folder / f"{name}.json", folder / f"{name}.log"
    answer_path.unlink(missing_ok=True)
    started = time.monotonic()
    with log_path.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=lone_process(sees_gpu=sees_gpu),
        )  # fmt: skip
        try:
            code = child.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    answer = read_json(answer_path) if answer_path.is_file() else {"rows": [], "finished": False}
    found: dict[str, Any] = {
        "status": _status(answer, code),
        "rows": answer["rows"],
        "seconds": time.monotonic() - started,
    }
    if found["status"] == "out of memory" and found["rows"]:
        found["rows"][-1]["out_of_memory"] = answer["out_of_memory"]
    if found["status"] in ("crashed", "timed out"):
        found["reason"] = _reason(code, limit)
        found["last_lines"] = _tail(log_path)
    return found


def _status(answer: Mapping[str, Any], code: int | None) -> str:
    rows = answer["rows"]
    if code is None:
        return "timed out"
    if code != 0 or not answer["finished"]:
        return "crashed"
    if "out_of_memory" in answer:
        return "out of memory"
    if faults(rows):
        return "failed"
    return "skipped" if rows and all("skipped" in row for row in rows) else "passed"


def _reason(code: int | None, limit: float) -> str:
    if code is None:
        return f"it was not done after {limit:.0f} s and was ended"
    if code < 0:
        return f"it died of signal {-code} ({signal.Signals(-code).name})"
    return f"it ended with exit code {code}"


def _tail(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
