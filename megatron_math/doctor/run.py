"""All probes in order, and their table."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich.box import SIMPLE_HEAD
from rich.table import Table

from megatron_math.base.road import Road
from megatron_math.device.start import gpus_here
from megatron_math.doctor import imports, machine
from megatron_math.doctor.finding import Finding
from megatron_math.sandbox.python import layers
from megatron_math.train.config import PrecisionConfig

PROBED = ("torch", "megatron_math._native", "gigatoken", "transformer_engine", "apex", "flash_attn")


def examine(road: Road | None, runs: Path) -> list[Finding]:
    """Probe everything. With a road, what it asks for that is not here is a problem."""
    spec = road.section("precision", PrecisionConfig).spec if road else "auto"
    apex = imports.which_apex()
    wanted = [name for name in PROBED if imports.has(name) and (name, apex) != ("apex", "other")]
    facts = imports.import_facts([*wanted, f"kernels={spec}"])
    num_gpus = len(facts.get("torch", {}).get("gpus", []))
    newest = Path(__file__).stat().st_mtime
    return [
        Finding("Python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *check_torch(facts.get("torch"), gpus_here(), driver_version()),
        check_core(_version("megatron-core")),
        check_optional("Transformer Engine", facts.get("transformer_engine"), "pip install "
                       "megatron_math[gpu]", needed=spec == "te", num_gpus=num_gpus),
        check_apex(apex, facts.get("apex"), num_gpus),
        check_optional("flash-attn", facts.get("flash_attn"), "pip install flash-attn, if wanted; "
                       "cuDNN's attention serves as well", needed=False, num_gpus=num_gpus),
        *check_kernels(facts[f"kernels={spec}"]),
        check_native(facts.get("megatron_math._native")),
        check_tokenizer(facts.get("gigatoken")),
        machine.check_compiler(machine.find_compiler(),
                               has_native="error" not in facts.get("megatron_math._native", {})),
        machine.check_folder(road.root if road else runs),
        machine.check_sandbox(layers()),
        machine.check_shared_memory(machine.read_shared_memory(), num_gpus),
        *machine.check_limits(machine.read_limits(), has_fabric=machine.has_fabric()),
        machine.check_clock(*machine.read_clock(), newest),
        *machine.check_cpu(*machine.read_cpu(), os.cpu_count() or 1,
                           len(os.sched_getaffinity(0)), num_gpus),
    ]  # fmt: skip


def driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """NVIDIA's driver, by the kernel; None without one."""
    try:
        words = path.read_text().split()
    except OSError:
        return None
    return next((w for w in words if w[:1].isdigit() and "." in w), None)


def check_torch(
    facts: Mapping[str, Any] | None, num_seen: int, driver: str | None
) -> list[Finding]:
    """num_seen: GPUs that the kernel shows, whether torch sees them or not."""
    if facts is None or "error" in facts:
        found = "not installed" if facts is None else facts["error"]
        advice = "pip install torch (on a GPU machine the build for your driver, see pytorch.org)"
        return [Finding("torch", "problem", found, advice)]
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU build"
    findings = [Finding("torch", "ok", f"{facts['version']}, {build}")]
    gpus = facts["gpus"]
    if gpus:
        names = ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus))
        works = facts.get("multiplies", True)
        libraries = f"driver {driver}, cuDNN {facts['cudnn']}, NCCL {facts['nccl']}"
        findings.append(
            Finding("GPU", "ok", f"{names}; {libraries}") if works
            else Finding("GPU", "problem", f"{names}: a product of bf16 matrices is wrong",
                         "take the node out of use; nvidia-smi -q shows its errors")
        )  # fmt: skip
        if len(gpus) > 1 and facts["nccl"] is None:
            advice = "take torch's own wheel, which brings NCCL"
            findings.append(Finding("NCCL", "problem", "torch was built without it", advice))
    elif num_seen:
        advice = (
            "install the torch build for this driver" if facts["cuda"] is None
            else "the driver may be older than this torch's CUDA; take an older torch build"
        )  # fmt: skip
        found = f"{num_seen} on this machine (driver {driver}), and torch sees none"
        findings.append(Finding("GPU", "problem", found, advice))
    else:
        findings.append(Finding("GPU", "ok", "none: training runs on the CPU, with gloo"))
        if not facts["gloo"]:
            advice = "take torch's own wheel, which brings gloo"
            findings.append(Finding("gloo", "problem", "torch was built without it", advice))
    return findings


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_core(version: str | None, wanted: str | None = None) -> Finding:
    """wanted: the range this package asks for, default as installed."""
    if wanted is None:
        asked = importlib.metadata.requires("megatron_math") or []
        found = [Requirement(text) for text in asked]
        wanted = next(str(one.specifier) for one in found if one.name == "megatron-core")
    if version is None:
        return Finding("megatron-core", "problem", "not installed", "pip install megatron_math")
    if Requirement(f"megatron-core{wanted}").specifier.contains(version, prereleases=True):
        return Finding("megatron-core", "ok", f"{version} (tested: {wanted})")
    advice = f"pip install 'megatron-core{wanted}': others were not tested, and its insides move"
    return Finding("megatron-core", "problem", version, advice)


def check_optional(
    name: str, facts: Mapping[str, Any] | None, how: str, *, needed: bool, num_gpus: int
) -> Finding:
    """A package that serves GPUs. needed: the road asks for it."""
    if facts is not None and "error" in facts:
        found = f"installed, and does not import: {facts['error']}"
        # Whether core can live with that is what the layer spec's own import shows.
        return Finding(name, "problem" if needed else "note", found, "mend it, or pip uninstall it")
    if facts is not None:
        return Finding(name, "ok", facts["version"] or "installed")
    if needed:
        return Finding(name, "problem", "not installed, and the road asks for it", how)
    if num_gpus:
        return Finding(name, "note", "not installed", how)
    return Finding(name, "ok", "not installed; of no use without a GPU")


def check_apex(which: str, facts: Mapping[str, Any] | None, num_gpus: int) -> Finding:
    name = "NVIDIA Apex"
    if which == "other":
        found = "not installed; the package `apex` here is PyPI's web toolkit of the same name"
        advice = "pip uninstall apex; NVIDIA's is built from github.com/NVIDIA/apex"
        return Finding(name, "note", found, advice)
    how = "build it from github.com/NVIDIA/apex (not PyPI's apex); Transformer Engine serves too"
    return check_optional(name, facts, how, needed=False, num_gpus=num_gpus)


def check_kernels(facts: Mapping[str, Any]) -> list[Finding]:
    if "error" in facts:
        advice = "see the packages above; python -m megatron_math.train would end the same way"
        return [Finding("layer spec", "problem", facts["error"], advice)]
    findings = [Finding("layer spec", "ok", facts["why"].removeprefix("layer spec: "))]
    for kernel in facts["kernels"]:
        state = "used: " if kernel["used"] else "not used: "
        findings.append(Finding(kernel["name"], "ok", state + kernel["reason"]))
    return findings


def check_native(facts: Mapping[str, Any] | None) -> Finding:
    if facts is not None and "error" not in facts:
        return Finding("C++ part", "ok", Path(facts["file"]).name)
    found = "not built" if facts is None else facts["error"]
    return Finding("C++ part", "problem", found, "pip install . again, with a C++ compiler")


def check_tokenizer(facts: Mapping[str, Any] | None) -> Finding:
    name = "tokenizer engine"
    if facts is not None and "error" not in facts:
        found = f"gigatoken {facts['version']}: used where its ids equal the reference library's"
        return Finding(name, "ok", found)
    found = "reference libraries only" + (f" ({facts['error']})" if facts else "")
    return Finding(name, "note", found, "pip install gigatoken: about ten times as fast")


def render(findings: list[Finding]) -> Table:
    """The findings for a terminal."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        found = finding.found + (f"\n-> {finding.advice}" if finding.advice else "")
        table.add_row(finding.status, finding.name, found)
    return table
