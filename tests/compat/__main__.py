"""Write docs/benchmarks/compat.md: the newest megatron-core, and Transformer Engine without a GPU.

    make compat [TE_WHEELS=folder]      # python tests/compat [--te-wheels folder] [--page-only]

Runs in the environment of constraints-compat.txt, where no Transformer Engine is; the last group of
tests alone gets one, from a folder that is laid before its packages. --te-wheels: a folder with a
transformer_engine_torch wheel for this Python and torch; --page-only: the page from the results of
an earlier run in runs/compat.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "benchmarks" / "compat.md"
RESULTS = PAGE.with_suffix(".json")
WORK = REPOSITORY / "runs" / "compat"
TE_FOLDER = Path(sys.prefix) / "te"
TE_PACKAGES = (
    "transformer-engine", "transformer-engine-cu13", "einops", "importlib_metadata", "ml_dtypes",
    "onnx", "onnx-ir", "onnxscript", "zipp",
)  # fmt: skip
GROUPS = {
    "parity": ["tests/train/test_parity.py"],
    "resume": ["tests/train/test_resume.py"],
    "layout_change": ["tests/train/test_layout_change.py"],
    "expert_layouts": ["tests/train/test_expert_layouts.py"],
    "model_device": ["tests/model", "tests/device"],
}
TE_GROUP = {"transformer_engine": ["tests/compat"]}


def install_te(wheels: Path) -> None:
    """Transformer Engine, and what its import needs, into a folder beside this environment."""
    found = sorted(wheels.glob("transformer_engine_torch-*.whl"))
    if len(found) != 1:
        sys.exit(f"one transformer_engine_torch wheel was asked for in {wheels}: {len(found)}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    command += ["--target", str(TE_FOLDER), "-c", str(REPOSITORY / "constraints-compat.txt")]
    subprocess.run([*command, *TE_PACKAGES, str(found[0])], check=True)


def run_group(name: str, paths: list[str], extra_path: Path | None = None) -> None:
    """One group under pytest; its results and its output lie in WORK."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *paths]
    command += ["-o", "junit_logging=system-out", "--junitxml", str(WORK / f"{name}.xml")]
    environment = os.environ | ({"PYTHONPATH": str(extra_path)} if extra_path else {})
    with (WORK / f"{name}.log").open("w") as log:
        subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    print(f"{name}: {read_group(name)}", file=sys.stderr)


def read_group(name: str) -> dict[str, Any] | None:
    """Counts of a group's tests; None where it left no results."""
    path = WORK / f"{name}.xml"
    if not path.is_file():
        return None
    suite = next(ElementTree.parse(path).iter("testsuite"))
    counts = {word: int(suite.get(word, 0)) for word in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    differences = [
        float(text)
        for case in suite.iter("testcase")
        if not re.search("dropped|control|fault", case.get("name", ""))
        for text in re.findall(
            r"largest relative difference: (\S+)", case.findtext("system-out", "")
        )
    ]
    return {
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
        "seconds": round(float(suite.get("time", 0))),
        "largest_difference": max(differences, default=None),
    }


def describe(groups: dict[str, list[str]]) -> dict[str, Any]:
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    names = ("torch", "megatron-core", "numpy", "transformers")
    return {
        "date": date.today().isoformat(),
        "commit": commit,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in names},
        "transformer_engine": te_version(),
        "groups": {n: {"paths": paths} | (read_group(n) or {}) for n, paths in groups.items()},
    }


def te_version() -> str | None:
    """Of what lies in TE_FOLDER."""
    found = [
        path.name.split("-")[1] for path in TE_FOLDER.glob("transformer_engine_torch-*.dist-info")
    ]
    return found[0].removesuffix(".dist") if found else None  # fmt: skip


def page(results: dict[str, Any]) -> str:
    rows = []
    for name, group in results["groups"].items():
        cells = [", ".join(f"`{path}`" for path in group["paths"])]
        if "passed" in group:
            cells += [f"{group[word]}" for word in ("passed", "failed", "skipped", "seconds")]
            off = group["largest_difference"]
            cells.append("" if off is None else f"{off:.1e}")
        else:
            reason = "not finished" if name in GROUPS else "not run: no wheel was named (TE_WHEELS)"
            cells += [reason, "", "", "", ""]
        rows.append("| " + " | ".join(cells) + " |")
    values = {word: results[word] for word in ("date", "commit", "machine")}
    values["versions"] = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    values["transformer_engine"] = results["transformer_engine"] or "none"
    values["rows"] = "\n".join(rows)
    text = (Path(__file__).parent / "page.md").read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description="Tests with the newest megatron-core, and a page.")
    parser.add_argument("--te-wheels", type=Path)
    parser.add_argument("--page-only", action="store_true")
    args = parser.parse_args()
    if not args.page_only:
        WORK.mkdir(parents=True, exist_ok=True)
        for old in WORK.glob("*.xml"):
            old.unlink()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda item: run_group(*item), GROUPS.items()))
        if args.te_wheels is not None:
            install_te(args.te_wheels)
            for name, paths in TE_GROUP.items():
                run_group(name, paths, TE_FOLDER)
    results = describe(GROUPS | TE_GROUP)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")
    groups = results["groups"].items()
    failed = [name for name, group in groups if group.get("failed", name in GROUPS)]
    print(f"failed: {', '.join(failed)}" if failed else f"nothing failed; read on: {PAGE}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
