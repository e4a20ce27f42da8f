"""Every system call of a small tokenizing job fails once, or kills the job (strace -e inject).

    python tests/soak/index_faults.py [--work DIR] [--processes N] [--most N] [--sabotage]

The job runs where an older index lies. For every kind of call that touches its output folder, for
every number of times it is made in a thread, and for EIO, ENOSPC and SIGKILL: the call is made to
fail, then it is checked that (1) the job ended with 0 and the right bytes, or with an error that
people can read and no traceback, (2) what lies under the final names is the older index, the new
one or nothing that opens, (3) the same command without a fault ends with 0 and the bytes of an
unbroken run, and leaves no temporary file. Prints the faults tried by call and outcome as JSON.
--sabotage: the negative control; the second run goes on 200 bytes too late, and the campaign must
find differences.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.tokenizer import train_sentencepiece

HERE = Path(__file__).resolve().parent
JOB = HERE / "small_index_job.py"
SUFFIXES = (".bin", ".idx", ".ids", ".json")
PREFIX = "corpus_text_document"
FAULTS = ("error=EIO", "error=ENOSPC", "signal=SIGKILL")
# Calls that a job makes on its own files; those of the interpreter's start touch other folders.
CALLS = (
    *("openat", "open", "creat", "read", "pread64", "preadv", "write", "pwrite64", "writev"),
    *("lseek", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "unlink"),
    *("unlinkat", "close", "flock", "fstat", "newfstatat", "stat", "fcntl", "mkdir", "fallocate"),
    *("copy_file_range", "sendfile", "mmap", "ioctl"),
)
MOST_TIMES = 400  # of one call in one thread; more are an endless loop of this script
LIMIT_SECONDS = 120
INJECTED = re.compile(r"\(INJECTED\)|\+\+\+ killed by SIGKILL|--- SIGKILL")


@dataclass(frozen=True)
class Fault:
    call: str
    fault: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.call}-{self.fault.split('=')[1]}-{self.number}"


def make_inputs(work: Path) -> None:
    """Two corpora with some unusable lines, and a tokenizer of 300 ids."""
    work.mkdir(parents=True, exist_ok=True)
    texts = [
        f"Ann has {i} apples and buys {i * 7 % 91}; she has {i + i * 7 % 91}." for i in range(900)
    ]
    train_sentencepiece(iter(texts), work / "tokenizer.model", 300, sample_bytes=100_000)
    for name, chosen in (("corpus_a", texts[:500]), ("corpus_b", texts[500:])):
        lines = [json.dumps({"id": f"{name}-{i}", "text": text}) for i, text in enumerate(chosen)]
        lines[7], lines[40:40] = '{"text": "cut', ["", '{"text": ""}', '{"text": 3}']
        (work / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    older = work / "older"
    older.mkdir(exist_ok=True)
    (older / "corpus_old.jsonl").write_text("\n".join(json.dumps({"text": t[::-1]}) for t in texts))
    shutil.copy(work / "tokenizer.model", older)


def digests(folder: Path) -> dict[str, str]:
    """Name -> digest of every file; the sidecar's counts of comparisons and names are equal too."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def command(work: Path, out: Path) -> list[str]:
    return [sys.executable, str(JOB), str(work), str(out)]


def run_plain(work: Path, out: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | more
    return subprocess.run(
        command(work, out), capture_output=True, text=True, timeout=LIMIT_SECONDS, env=environment
    )


def touched_paths(work: Path, out: Path) -> list[str]:
    """Every path in the output folder that an unbroken run names."""
    log = out.parent / "paths.strace"
    traced = ["strace", "-f", "-y", "-o", str(log), "-e", "trace=%file,%desc", *command(work, out)]
    subprocess.run(traced, check=True, capture_output=True, timeout=LIMIT_SECONDS)
    pattern = re.compile(re.escape(str(out)) + r'(?:/[^">,)\s]+)?')
    found = set(pattern.findall(log.read_text(errors="replace")))
    log.unlink()
    return sorted(path.removesuffix(" (deleted)") for path in found)


class Campaign:
    def __init__(self, work: Path, processes: int, most: int | None, sabotage: bool) -> None:
        self.work, self.processes, self.most, self.sabotage = work, processes, most, sabotage
        self.inputs = work / "inputs"
        make_inputs(self.inputs)
        self.older, self.new = work / "older", work / "new"
        for folder, source in ((self.older, self.inputs / "older"), (self.new, self.inputs)):
            folder.mkdir(exist_ok=True)
            done = run_plain(source, folder)
            assert done.returncode == 0, done.stderr
        self.old_files, self.new_files = digests(self.older), digests(self.new)
        assert self.old_files[f"{PREFIX}.bin"] != self.new_files[f"{PREFIX}.bin"]
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []
        sample = self.fresh_out("sample")
        self._names = [os.path.relpath(path, sample) for path in touched_paths(self.inputs, sample)]
        shutil.rmtree(sample.parent)

    def fresh_out(self, name: str) -> Path:
        out = self.work / name / "out"
        out.mkdir(parents=True)
        for path in self.older.iterdir():
            shutil.copy(path, out)
        return out

    def run(self) -> None:
        with ThreadPoolExecutor(self.processes) as pool:
            list(pool.map(self._series, [(call, fault) for call in CALLS for fault in FAULTS]))

    def _series(self, kind: tuple[str, str]) -> None:
        """The first call of this kind in a thread fails, then the second, until there are none."""
        for number in range(1, MOST_TIMES + 1):
            if self.most is not None and sum(self.counts.values()) >= self.most:
                return
            fault = Fault(*kind, number)
            out = self.fresh_out(fault.name)
            try:
                if not self._try(fault, out):
                    return
            finally:
                shutil.rmtree(out.parent)
        self.findings.append(f"{kind}: more than {MOST_TIMES} calls")

    def _try(self, fault: Fault, out: Path) -> bool:
        """False when there was no such call any more."""
        log = out.parent / "strace"
        paths = [argument for path in self._paths(out) for argument in ("-P", path)]
        inject = f"inject={fault.call}:{fault.fault}:when={fault.number}"
        traced = ["strace", "-f", "-o", str(log), "-e", f"trace={fault.call}", "-e", inject, *paths]
        done = subprocess.run(
            [*traced, *command(self.inputs, out)],
            capture_output=True, text=True, timeout=LIMIT_SECONDS, errors="replace",
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        if not INJECTED.search(log.read_text(errors="replace")):
            return False
        killed = fault.fault.startswith("signal")
        outcome = "killed" if killed else ("done" if done.returncode == 0 else "refused")
        self.counts[f"{fault.call} {fault.fault} {outcome}"] += 1
        self._check(fault, out, done, killed)
        return True

    def _paths(self, out: Path) -> Iterator[str]:
        for name in self._names:
            yield str(out / name) if name != "." else str(out)

    def _check(
        self, fault: Fault, out: Path, done: subprocess.CompletedProcess[str], killed: bool
    ) -> None:
        if not killed and done.returncode == 0 and digests(out) != self.new_files:
            self._find(fault, f"ended with 0 and other bytes: {self._differing(out)}")
        if not killed and done.returncode not in (0, 1, 2):
            self._find(fault, f"ended with {done.returncode}: {done.stderr[-300:]}")
        if (
            not killed
            and done.returncode
            and ("Traceback" in done.stderr or not done.stderr.strip())
        ):
            self._find(fault, f"no message for people: {done.stderr[-300:]!r}")
        self._check_final_names(fault, out)
        again = run_plain(self.inputs, out, **({"SABOTAGE": "1"} if self.sabotage else {}))
        if again.returncode != 0:
            self._find(
                fault, f"the second run ended with {again.returncode}: {again.stderr[-300:]}"
            )
        elif digests(out) != self.new_files:
            self._find(fault, f"the second run left other bytes: {self._differing(out)}")

    def _check_final_names(self, fault: Fault, out: Path) -> None:
        """The older index, the new one, or nothing that opens."""
        found = digests(out)
        try:
            IndexedDocuments(out / PREFIX)
        except UserError:
            return
        names = [PREFIX + suffix for suffix in SUFFIXES]
        for whole in (self.old_files, self.new_files):
            pair = [found.get(name) == whole[name] for name in names[:2]]
            if all(pair) and found.get(names[3]) in (None, whole[names[3]]):
                return
        self._find(fault, f"opens and is neither the older nor the new index: {sorted(found)}")

    def _differing(self, out: Path) -> list[str]:
        found = digests(out)
        names = sorted(found.keys() | self.new_files.keys())
        return [name for name in names if found.get(name) != self.new_files.get(name)]

    def _find(self, fault: Fault, text: str) -> None:
        self.findings.append(f"{fault.name}: {text}")
        print(self.findings[-1], file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--most", type=int, help="stop after so many faults")
    parser.add_argument("--sabotage", action="store_true")
    args = parser.parse_args()
    if shutil.which("strace") is None:
        print("strace is not installed; this campaign needs it", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        campaign = Campaign(Path(folder), args.processes, args.most, args.sabotage)
        campaign.run()
    print(json.dumps({
        "faults": sum(campaign.counts.values()),
        "by call and outcome": dict(sorted(campaign.counts.items())),
        "findings": campaign.findings,
    }, indent=2))  # fmt: skip
    return bool(campaign.findings) != args.sabotage


if __name__ == "__main__":
    sys.exit(main())
