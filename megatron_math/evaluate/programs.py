"""programs.jsonl: what every program of an answer printed, kept like the answers themselves.

A program may print something else when it runs again (a clock, random numbers, a time limit that
was just met), so that a killed evaluation would go on with other answers than it began with.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from megatron_math.base.files import sha256_json
from megatron_math.evaluate.config import ToolConfig
from megatron_math.sandbox.python import Limits, PythonSandbox, for_model


class Program(NamedTuple):
    """One program, and the place where it stands: row, sample, how many were before it."""

    row: str
    sample: int
    number: int
    code: str


class Run(NamedTuple):
    """outcome: the sandbox's word. shown: what the model is told."""

    outcome: str
    shown: str


class Programs:
    """Runs programs once each. The sandbox is opened for the first that is not known."""

    def __init__(self, folder: Path, config: ToolConfig) -> None:
        self._path = folder / "programs.jsonl"
        self._config = config
        self._sandbox: PythonSandbox | None = None
        self._known: dict[str, Run] = {}
        content = self._path.read_bytes() if self._path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            row = json.loads(line)
            self._known[row["key"]] = Run(row["outcome"], row["shown"])
        if whole != content:
            self._path.write_bytes(whole)

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *_: object) -> None:
        if self._sandbox is not None:
            self._sandbox.close()

    def run_all(self, exam: str, programs: Sequence[Program]) -> list[Run]:
        """What became of each, in order. exam: a digest of all that decides its prompts."""
        keys = [sha256_json([exam, self._config.identity(), *program]) for program in programs]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            results = self._open().run_all([programs[i].code for i in new])
            with open(self._path, "ab") as file:
                for i, result in zip(new, results, strict=True):
                    run = Run(result.outcome, for_model(result, self._config.characters))
                    self._known[keys[i]] = run
                    row = {"key": keys[i], **run._asdict()}
                    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return [self._known[key] for key in keys]

    def _open(self) -> PythonSandbox:
        if self._sandbox is None:
            seconds = self._config.wall_seconds
            self._sandbox = PythonSandbox(
                self._config.workers,
                Limits(wall_seconds=seconds, cpu_seconds=seconds),
                unprotected=self._config.unprotected,
            )
        return self._sandbox
