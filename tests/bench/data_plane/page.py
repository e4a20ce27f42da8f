"""Results as JSON and as a page: docs/benchmarks/data_plane.{json,md}."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from bench import Measured
from timing import REPOSITORY

PAGE = REPOSITORY / "docs" / "benchmarks" / "data_plane.md"
RESULTS = PAGE.with_suffix(".json")
BEGIN, END = "<!-- generated from data_plane.json: begin -->", "<!-- generated: end -->"
PACKAGES = (
    "megatron-core", "torch", "numpy", "tokenizers", "sentencepiece", "tiktoken",
    "gigatoken-cachefix",
)  # fmt: skip


def describe_run() -> dict[str, Any]:
    """Commit, machine and versions, without names or paths of this machine."""
    git = ["git", "-C", str(REPOSITORY)]
    commit = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True).strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", ":!docs"]).returncode != 0
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit + (" with changes" if changed else ""),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def to_record(run: dict[str, Any], measured: Measured) -> dict[str, Any]:
    return {**run, **asdict(measured)}


def load_results(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def save_results(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def number(value: float, unit: str) -> str:
    if unit == "x":
        return f"{value:.3g}x" if value < 1000 else f"{value:,.0f}x"
    if unit == "share":
        return f"{value:.2f}"
    return f"{value:.2f} {unit}" if abs(value) < 10 else f"{value:.1f} {unit}"


def table(results: dict[str, Any]) -> str:
    """One row a line of every measure, then a paragraph a measure."""
    lines = [
        "| measure | floor | aim | median | lowest to highest | pairs | peer | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in results.values():
        for row in record["rows"]:
            value, unit = row["value"], row["unit"]
            low, high = number(value["low"], unit), number(value["high"], unit)
            lines.append(
                f"| {row['what']} | {row['floor']} | {row['aim']} | {number(value['median'], unit)}"
                f" | {low} to {high} | {value['pairs']} | {row['peer']} | {row['ours']} |"
            )
    for name, record in results.items():
        machine = record["machine"]
        lines += [
            "",
            f"**{name}.** {record['setup']} Commit {record['commit']}, {record['date']}, "
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load "
            f"before {machine['load_before']}.",
            "",
            *(f"    {command}" for command in record["commands"]),
        ]
    if results:
        versions = next(reversed(results.values()))["versions"]
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines += ["", f"Versions: {told}."]
    return "\n".join(lines)


def write_page(results: dict[str, Any]) -> None:
    """Replace what stands between the two marks; the prose around them is written by hand."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")
