"""Probes of the machine: file system, shared memory, limits, clock, CPU, compiler.

Each `check_` judges values that the caller may plant; the `read_` beside it takes them from here.
"""

import ctypes
import os
import re
import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_math.doctor.finding import Finding
from megatron_math.sandbox.isolation import Layer
from megatron_math.sandbox.python import refusal

GB = 10**9
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p")
PARALLEL_FILE_SYSTEMS = ("lustre", "gpfs", "beegfs", "wekafs", "ceph")


def check_folder(folder: Path) -> Finding:
    """The file system that will hold `folder`: space, and whether a rename survives as it must."""
    name = "run folder"
    place = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    kind, free = file_system(place), shutil.disk_usage(place).free
    found = f"{place}: {kind}, {free / GB:,.1f} GB free"
    probe, moved = (place / f".doctor.{os.getpid()}.{end}" for end in ("new", "moved"))
    try:
        with probe.open("wb") as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
        probe.rename(moved)
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if moved.read_bytes() != b"doctor":
            raise OSError("what was written is not what is read")
    except OSError as error:
        advice = "choose a folder that you may write to, with --runs"
        return Finding(name, "problem", f"{found}; writing fails: {error}", advice)
    finally:
        for left in (probe, moved):
            left.unlink(missing_ok=True)
    return judge_folder(found, kind, free)


def judge_folder(found: str, kind: str, free: int) -> Finding:
    name = "run folder"
    if free < GB:
        return Finding(name, "problem", found, "free some space, or choose another --runs")
    if kind == "tmpfs":
        return Finding(name, "note", found, "it is memory and gone after a reboot; take a disk")
    if kind in NETWORK_FILE_SYSTEMS:
        advice = "checkpoints of many ranks are slow on it; take a parallel file system for --runs"
        return Finding(name, "note", found, advice)
    if free < 200 * GB:
        advice = "a checkpoint of an 8B model takes 112 GB, and checkpoint.keep of them stay"
        return Finding(name, "note", found, advice)
    return Finding(name, "ok", found)


def file_system(path: Path, mounts: str | None = None) -> str:
    """Type of the file system that holds `path`, by /proc/mounts."""
    try:
        text = Path("/proc/mounts").read_text() if mounts is None else mounts
    except OSError:
        return "unknown file system"
    best = (0, "unknown file system")
    for line in text.splitlines():
        _, point, kind, *_ = line.split()
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= best[0]:
            best = (len(point), kind)
    return best[1]


def read_shared_memory(path: Path = Path("/dev/shm")) -> int | None:
    """Its size in bytes; None where there is none."""
    try:
        facts = os.statvfs(path)
    except OSError:
        return None
    return facts.f_frsize * facts.f_blocks


def check_shared_memory(size: int | None, num_gpus: int) -> Finding:
    name = "/dev/shm"
    found = "not there" if size is None else f"{size / GB:,.2f} GB"
    advice = "containers: give --ipc=host or --shm-size=16g; ranks of a node talk through it"
    if size is None or size < 32 * 2**20 * max(1, num_gpus):
        return Finding(name, "problem" if num_gpus > 1 else "note", found, advice)
    return Finding(name, "ok", found) if size >= GB else Finding(name, "note", found, advice)


def check_sandbox(layers: Sequence[Layer]) -> Finding:
    """What untrusted Python would be run behind here."""
    name = "sandbox"
    on = ", ".join(layer.name for layer in layers if layer.on)
    off = "; ".join(f"{layer.name}: {layer.found}" for layer in layers if not layer.on)
    if why := refusal(layers):
        return Finding(name, "note", f"untrusted code is not run here; on: {on or 'nothing'}", why)
    if off:
        advice = "enough for untrusted code; user namespaces and Linux 5.13 give all layers"
        return Finding(name, "note", f"on: {on}; off: {off}", advice)
    return Finding(name, "ok", f"untrusted code runs behind {on}")


LIMITS = {
    "nofile": resource.RLIMIT_NOFILE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "nproc": resource.RLIMIT_NPROC,
    "core": resource.RLIMIT_CORE,
}


def read_limits() -> dict[str, int]:
    """Soft limits by ulimit's name; -1 is unlimited. memlock and core in bytes."""
    return {name: resource.getrlimit(number)[0] for name, number in LIMITS.items()}


def check_limits(limits: Mapping[str, int], *, has_fabric: bool) -> list[Finding]:
    """has_fabric: InfiniBand or the like, whose buffers are locked memory."""
    findings = []
    for name, smallest, stops, advice in (
        ("nofile", 4096, 256, "ulimit -n 65536; sockets of ranks and shards of data are files"),
        ("nproc", 4096, 128, "ulimit -u unlimited; threads count as processes"),
    ):
        value = limits[name]
        fits = value == resource.RLIM_INFINITY or value >= smallest
        low = "problem" if value < stops else "note"
        shown = "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"
        findings.append(
            Finding(f"limit {name}", "ok", shown) if fits
            else Finding(f"limit {name}", low, shown, advice)  # type: ignore[arg-type]
        )  # fmt: skip
    memlock, core = limits["memlock"], limits["core"]
    unlimited = memlock == resource.RLIM_INFINITY
    shown = "unlimited" if unlimited else f"{memlock:,} bytes"
    findings.append(
        Finding("limit memlock", "problem", shown,
                "ulimit -l unlimited (in SLURM: PropagateResourceLimitsExcept=MEMLOCK)")
        if has_fabric and not unlimited and memlock < 2**30
        else Finding("limit memlock", "ok", shown)
    )  # fmt: skip
    if core == 0:
        findings.append(Finding("limit core", "ok", "0"))
    else:
        shown = "unlimited" if core == resource.RLIM_INFINITY else f"{core:,} bytes"
        advice = "ulimit -c 0, or a crash writes the memory of every rank to the disk"
        findings.append(Finding("limit core", "note", shown, advice))
    return findings


def has_fabric(folder: Path = Path("/sys/class/infiniband")) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def read_clock() -> tuple[float, float, bool | None]:
    """Seconds since 1970, seconds that a sleep of 10 ms took, whether the kernel says it is set by
    NTP (None: it does not say)."""
    before = time.monotonic()
    time.sleep(0.01)
    slept = time.monotonic() - before
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        state = -1
    return time.time(), slept, None if state < 0 else state != 5  # timex.h: TIME_ERROR


def check_clock(now: float, slept: float, is_set: bool | None, newest_file: float) -> Finding:
    """newest_file: when the program's own files were written; the clock cannot be before that."""
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    found += {True: ", set by NTP", False: ", not set by NTP", None: ""}[is_set]
    if now < newest_file - 86_400:
        advice = "set the clock: certificates, timeouts and what is stale depend on it"
        return Finding("clock", "problem", f"{found}, before this program was installed", advice)
    if not 0 < slept < 5:
        advice = "ask who runs the machine: timeouts between ranks depend on it"
        return Finding("clock", "problem", f"{found}; 10 ms took {slept:.2f} s", advice)
    if is_set is False:
        return Finding("clock", "note", found, "chronyd or ntpd keeps the nodes' logs in one order")
    return Finding("clock", "ok", found)


def read_cpu(info: str | None = None) -> tuple[str, set[str]]:
    """Model and flags."""
    try:
        text = Path("/proc/cpuinfo").read_text() if info is None else info
    except OSError:
        return "unknown", set()
    model = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    return (model[1] if model else "unknown"), set(flags[1].split() if flags else ())


def check_cpu(
    model: str, flags: set[str], cores: int, allowed: int, num_gpus: int
) -> list[Finding]:
    """cores: of the machine; allowed: that this process may use."""
    fast = "amx_bf16" in flags or "avx512_bf16" in flags
    kinds = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    found = f"{model}: {', '.join(kinds) or 'no vector extension known'}"
    if fast or num_gpus:
        first = Finding("CPU", "ok", found)
    else:
        first = Finding(
            "CPU", "note", found, "bf16 is slow without avx512_bf16; precision.dtype: fp32"
        )
    found = f"{allowed} of {cores} may be used"
    wanted = max(1, num_gpus)
    if allowed < wanted or (allowed == 1 and cores > 1):
        advice = "in SLURM give srun --cpus-per-task too; else: taskset -p, the container's cpuset"
        return [first, Finding("cores", "note", found, advice)]
    return [first, Finding("cores", "ok", found)]


def check_compiler(compiler: str | None, *, has_native: bool) -> Finding:
    if compiler is not None:
        return Finding("compiler", "ok", compiler)
    advice = "install g++ 11 or newer; the C++ part is built with it"
    return Finding("compiler", "note" if has_native else "problem", "none found", advice)


def find_compiler() -> str | None:
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)
