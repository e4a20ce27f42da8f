"""The hostile snippets (`hostile/*.yaml`), and what they must not have done.

Each has a name, the outcomes that are right, its code (or its bytes as `hex`), sometimes the system
calls that must have been refused. It prints ESCAPED where it got what it must not get. In the code
@CANARY@ is a secret file outside, @OUTSIDE@ its folder, @PORT@ a listener's port, @ABSTRACT@ an
abstract socket, @ENV_NAME@ a variable of this process, @OUTPUT_BYTES@ the limit, @NR:name@ the
number of a system call.
"""

import contextlib
import os
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from megatron_math.sandbox.python import Limits, PythonSandbox, Result
from megatron_math.sandbox.syscalls import numbers

FOLDER = Path(__file__).with_name("hostile")
ENV_NAME = "MEGATRON_MATH_TEST_TOKEN"
LIMITS = Limits(wall_seconds=1.0, cpu_seconds=1.0, memory_bytes=448 << 20, disk_bytes=16 << 20)
# What a run may take beyond its limits; see `spare_seconds`.
SPARE_SECONDS, SPARE_BYTES = 0.5, 64 << 20


def spare_seconds() -> float:
    """Half a second, times the processes that share a core: to take 400 MB back is work, too."""
    return SPARE_SECONDS * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Snippet:
    family: str
    name: str
    outcomes: tuple[str, ...]
    code: bytes
    refused: tuple[str, ...]
    is_slow: bool

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


def load(*families: str) -> list[Snippet]:
    """All snippets, or those of some families, in the order of their files."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        if families and path.stem not in families:
            continue
        for row in yaml.safe_load(path.read_text(encoding="utf-8")):
            code = bytes.fromhex(row["hex"]) if "hex" in row else row["code"].encode()
            refused = tuple(row.get("refused", ()))
            found.append(
                Snippet(path.stem, row["name"], tuple(row["outcomes"]), code, refused,
                        row.get("soak", False))
            )  # fmt: skip
    return found


def find(family: str, name: str) -> Snippet:
    return next(snippet for snippet in load(family) if snippet.name == name)


class Outside:
    """What snippets try to reach: a secret in a file and in the environment, and listeners."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "outside"
        self.folder.mkdir()
        self.folder.chmod(0o777)
        self.secret = secrets.token_hex(16)
        self.token = secrets.token_hex(16)
        self.canary = self.folder / "canary.txt"
        self.canary.write_text(self.secret)
        self.canary.chmod(0o666)
        self.abstract = secrets.token_hex(8)
        self.reached: list[str] = []

    def __enter__(self) -> "Outside":
        os.environ[ENV_NAME] = self.token
        tcp = socket.create_server(("127.0.0.1", 0))
        self.port = tcp.getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", self.port))
        path, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        path.bind(str(self.folder / "socket"))
        (self.folder / "socket").chmod(0o777)
        abstract.bind("\0" + self.abstract)
        self._listeners = [tcp, udp, path, abstract]
        for listener, name in zip(self._listeners, ("TCP", "UDP", "path", "abstract"), strict=True):
            if listener is not udp:
                listener.listen()
            listener.settimeout(0.2)
            threading.Thread(target=self._listen, args=(listener, name), daemon=True).start()
        return self

    def _listen(self, listener: socket.socket, name: str) -> None:
        while listener.fileno() >= 0:
            with contextlib.suppress(OSError):
                if listener.type == socket.SOCK_DGRAM:
                    listener.recvfrom(100)
                else:
                    listener.accept()[0].close()
                self.reached.append(name)

    def __exit__(self, *_: object) -> None:
        del os.environ[ENV_NAME]
        for listener in self._listeners:
            listener.close()

    def code(self, snippet: Snippet) -> bytes | None:
        """The snippet's code here; None where a system call that it names does not exist."""
        filled = {
            b"@CANARY@": os.fsencode(self.canary),
            b"@OUTSIDE@": os.fsencode(self.folder),
            b"@PORT@": str(self.port).encode(),
            b"@ABSTRACT@": self.abstract.encode(),
            b"@ENV_NAME@": ENV_NAME.encode(),
            b"@OUTPUT_BYTES@": str(LIMITS.output_bytes).encode(),
        }
        code = snippet.code
        for mark, value in filled.items():
            code = code.replace(mark, value)
        known = numbers()
        names = re.findall(rb"@NR:(\w+)@", code)
        if any(name.decode() not in known for name in names):
            return None
        for name in names:
            code = code.replace(b"@NR:" + name + b"@", str(known[name.decode()]).encode())
        return code

    def escapes(self, result: Result) -> list[str]:
        """What one result shows of an escape."""
        shown = result.stdout + result.stderr
        found = ["it says so"] if b"ESCAPED" in without_source(result) else []
        if self.secret.encode() in shown:
            found.append("the canary was read")
        if self.token.encode() in shown:
            found.append("the environment was read")
        return found

    def traces(self) -> list[str]:
        """What all snippets together left out here."""
        found = [f"{name} was reached" for name in self.reached]
        left = sorted(path.name for path in self.folder.iterdir())
        if left != ["canary.txt", "socket"]:
            found.append(f"files outside: {left}")
        if not self.canary.exists() or self.canary.read_text() != self.secret:
            found.append("the canary was changed")
        return found


def without_source(result: Result) -> bytes:
    """The output without the source lines that a traceback shows."""
    return result.stdout + re.sub(rb"(?m)^    .*$", b"", result.stderr)


def processes(sandbox: PythonSandbox) -> list[int]:
    """Pids of every process below the sandbox's workers, the workers too."""
    found = [worker._process.pid for worker in sandbox._workers]
    for pid in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


class Supervisor:
    """Samples the memory of all processes of a sandbox, and of their /tmp."""

    def __init__(self, sandbox: PythonSandbox) -> None:
        self._sandbox = sandbox
        self.at_rest_bytes = self._sample()
        self.most_bytes = 0
        self.samples = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _sample(self) -> int:
        total = 0
        for pid in processes(self._sandbox):
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = Path(f"/proc/{pid}/status").read_text()
                rows = dict(line.split(":", 1) for line in status.splitlines())
                for name in ("RssAnon", "RssShmem"):
                    total += int(rows.get(name, "0 kB").split()[0]) << 10
        for worker in list(self._sandbox._workers):
            with contextlib.suppress(OSError, IndexError, ValueError):
                pid = worker._process.pid
                inner = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
                disk = os.statvfs(f"/proc/{inner}/root/tmp")
                total += (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        return total

    def _watch(self) -> None:
        while not self._is_over.wait(0.01):
            self.most_bytes = max(self.most_bytes, self._sample())
            self.samples += 1

    def __enter__(self) -> "Supervisor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


@dataclass(frozen=True)
class Report:
    """One snippet and what came of it; `seconds` on this process's clock."""

    snippet: Snippet
    result: Result
    seconds: float
    escapes: tuple[str, ...]

    def faults(self, limits: Limits = LIMITS) -> list[str]:
        """What is wrong, for a message."""
        found = [f"escape: {why}" for why in self.escapes]
        if self.result.outcome not in self.snippet.outcomes:
            found.append(f"{self.result.outcome} ({self.result.reason}), not one of "
                         f"{self.snippet.outcomes}: {self.result.stderr[-200:]!r}")  # fmt: skip
        missed = set(self.snippet.refused) - set(self.result.refused)
        if missed:
            found.append(f"not refused: {missed}")
        if self.seconds > limits.wall_seconds + spare_seconds():
            found.append(f"{self.seconds:.2f} s")
        return [f"{self.snippet}: {fault}" for fault in found]


def run_one(sandbox: PythonSandbox, outside: Outside, snippet: Snippet) -> Report | None:
    code = outside.code(snippet)
    if code is None:
        return None
    started = time.monotonic()
    result = sandbox.run(code)
    seconds = time.monotonic() - started
    return Report(snippet, result, seconds, tuple(outside.escapes(result)))
