"""answers.jsonl: every answer that ever came, one line each, written the moment it came.

A line is written by one write() at the end of the file, so that a kill leaves whole lines; a line
that a full disk or a power cut tore is cut off when the file is opened again. In memory there is
the place of each answer, never its text. The bytes are fixed in docs/formats.md.
"""

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import fsync_folder, naming
from megatron_math.base.log import log
from megatron_math.engine.interface import Answer, Generation, Request

READ_BYTES = 1 << 16
SYNC_INTERVAL_S = 1.0  # a power cut, unlike a kill, may cost the answers of so long
KEY_BYTES = 16  # of the 32 that are in the file: two of 10^9 answers meet once in 10^20 files


class AnswerFile:
    """One file of answers, open for one process. All methods may be called from any thread.

    calls, prompt_tokens, new_tokens: of all its lines together, failures included.
    Raises UserError when another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls = self.prompt_tokens = self.new_tokens = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise UserError(
                f"another process is writing {path}; wait for it, or use another folder"
            ) from None
        except OSError:
            pass  # a file system without locks is trusted
        fsync_folder(path.parent)
        self._lock = threading.Lock()
        self._answered: dict[bytes, int] = {}
        self._end = 0
        self._synced_s = time.monotonic()
        self._index()

    def __len__(self) -> int:
        """How many requests have an answer; failures are none."""
        return len(self._answered)

    def find(self, key: str) -> int | None:
        """The place of the answer to the request with this key; None when it must be asked."""
        return self._answered.get(bytes.fromhex(key)[:KEY_BYTES])

    def append(self, key: str, request: Request, answer: Answer) -> int:
        """Write an answer or a failure; returns its place."""
        row: dict[str, Any] = {"key": key}
        if answer.failure is not None:
            row["failure"] = answer.failure
        else:
            row["generations"] = [_generation_row(item) for item in answer.generations]
        row |= {
            "calls": answer.calls,
            "prompt_tokens": answer.prompt_tokens,
            "new_tokens": answer.new_tokens,
            "request": request.to_json(),
        }
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        with self._lock, naming(self.path):
            written = os.write(self._descriptor, line)
            if written != len(line):
                os.ftruncate(self._descriptor, self._end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            place, self._end = self._end, self._end + len(line)
            self._count(row, place)
            if time.monotonic() - self._synced_s >= SYNC_INTERVAL_S:
                os.fdatasync(self._descriptor)
                self._synced_s = time.monotonic()
            return place

    def read(self, place: int) -> Answer:
        """The answer at a place that `find` or `append` gave."""
        row = json.loads(self._line_at(place))
        return Answer(
            tuple(_generation_from(item) for item in row.get("generations", ())),
            row.get("failure"),
            row["calls"],
            row["prompt_tokens"],
            row["new_tokens"],
        )

    def close(self) -> None:
        """Wait until the disk has everything, and let other processes in."""
        if self._descriptor >= 0:
            os.fdatasync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _index(self) -> None:
        bad_lines = 0
        for line in self._lines():
            try:
                row = json.loads(line)
                self._count(row, self._end)
            except (ValueError, KeyError, TypeError):
                bad_lines += 1
            self._end += len(line)
        torn_bytes = os.fstat(self._descriptor).st_size - self._end
        if torn_bytes:
            os.ftruncate(self._descriptor, self._end)
            log.warning("%s: cut off a last line of %d bytes, half written", self.path, torn_bytes)
        if bad_lines:
            log.warning("%s: %d lines are damaged and count as not answered", self.path, bad_lines)

    def _lines(self) -> Iterator[bytes]:
        """All lines that end; the descriptor's own place is not used for anything else."""
        with open(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def _count(self, row: dict[str, Any], place: int) -> None:
        key = bytes.fromhex(row["key"])[:KEY_BYTES]
        spent = [row[name] for name in ("calls", "prompt_tokens", "new_tokens")]
        if "failure" not in row:
            if not row["generations"]:
                raise ValueError("neither an answer nor a failure")
            self._answered[key] = place
        self.calls += spent[0]
        self.prompt_tokens += spent[1]
        self.new_tokens += spent[2]

    def _line_at(self, place: int) -> bytes:
        parts: list[bytes] = []
        while not parts or b"\n" not in parts[-1]:
            parts.append(os.pread(self._descriptor, READ_BYTES, place))
            place += len(parts[-1])
            if not parts[-1]:
                raise OSError(errno.EIO, "the file became shorter", str(self.path))
        return b"".join(parts).split(b"\n", 1)[0]


def _generation_row(generation: Generation) -> dict[str, Any]:
    row: dict[str, Any] = {
        "text": generation.text,
        "finish": generation.finish,
        "num_tokens": generation.num_tokens,
    }
    return row if generation.logprobs is None else row | {"logprobs": list(generation.logprobs)}


def _generation_from(row: dict[str, Any]) -> Generation:
    logprobs = tuple(row["logprobs"]) if "logprobs" in row else None
    return Generation(row["text"], row["finish"], row["num_tokens"], logprobs)
