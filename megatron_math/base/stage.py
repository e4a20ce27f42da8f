"""A stage: one folder with its data, `stats.json`, `manifest.json` and, last of all, `DONE`.

The fingerprint is the digest of stage name, configuration (without `LOCATION` fields) and the
fingerprints of all inputs; `DONE` holds it. Same fingerprint: the work is done already. The bytes
are fixed in docs/formats.md.
"""

import functools
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math import __version__
from megatron_math.base.config import Section
from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_file, sha256_json, write_json, write_text

MANIFEST_FORMAT = "megatron-math manifest"
MANIFEST_VERSION = 1


class WouldRun(Exception):  # noqa: N818 - an answer, not an error
    """Raised by `Stage.begin` inside `announcing()`: the stage is not up to date, and why."""

    def __init__(self, stage: "Stage") -> None:
        self.fingerprint = stage.fingerprint
        self.reasons = stage.changes() or ["not run yet" if stage.is_new else "not finished"]
        super().__init__("; ".join(self.reasons))


_announcing = False


@contextmanager
def announcing() -> Iterator[None]:
    """Inside this block a stage that would begin its work raises `WouldRun` instead: --dry-run."""
    global _announcing
    _announcing = True
    try:
        yield
    finally:
        _announcing = False


@dataclass(frozen=True)
class StageInput:
    """Something a stage reads: where it is and the digest of what it holds."""

    path: Path
    fingerprint: str


def finished_stage(folder: Path) -> StageInput:
    """The finished stage in `folder` as an input. Raises UserError when it is not finished."""
    if not (folder / "DONE").is_file():
        raise UserError(
            f"{folder} is needed and is not finished (no DONE mark); run that stage first, "
            f"or the whole road with 'megatron-math run'"
        )
    return StageInput(folder, (folder / "DONE").read_text(encoding="utf-8").strip())


class Stage:
    """Opened with what decides its result, closed with what it made.

    config: section name -> Section. inputs: name -> finished stage or path of a file or folder;
    files are digested by content, remembered by size and time of change so that a second look
    costs nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Mapping[str, Section],
        inputs: Mapping[str, StageInput | Path] | None = None,
        seed: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.name = self.folder.name
        self.config = dict(config)
        self.seed = seed
        self._before = self._read_manifest()
        self.inputs = {
            name: item if isinstance(item, StageInput) else self._digest_input(name, Path(item))
            for name, item in (inputs or {}).items()
        }
        self._sources = dict(inputs or {})
        self.identity = {
            "stage": self.name,
            "seed": seed,
            "config": {name: section.identity() for name, section in self.config.items()},
            "inputs": {name: item.fingerprint for name, item in self.inputs.items()},
        }
        self.fingerprint = sha256_json(self.identity)
        self._started = time.time()
        self.was_done = False

    @property
    def is_new(self) -> bool:
        """True when no run of any kind left a manifest here."""
        return self._before is None

    def is_done(self) -> bool:
        """True when the folder holds the finished result of this very configuration and input."""
        self.was_done = self._is_done()
        return self.was_done

    def _is_done(self) -> bool:
        done = self.folder / "DONE"
        if not done.is_file() or done.read_text(encoding="utf-8").strip() != self.fingerprint:
            return False
        outputs = (self._before or {}).get("outputs", {})
        return all(
            (self.folder / name).is_file() and (self.folder / name).stat().st_size == item["bytes"]
            for name, item in outputs.items()
        )

    def is_started(self) -> bool:
        """True when an unfinished (or finished) run of the same fingerprint left this folder."""
        return (self._before or {}).get("fingerprint") == self.fingerprint

    def changes(self) -> list[str]:
        """What differs from the run that left this folder: 'train.lr: 0.001 -> 0.002', ..."""
        before = (self._before or {}).get("identity")
        return _differences(before, self.identity) if before else []

    def announce(self) -> None:
        """Raises WouldRun inside `announcing()`: for work that is done without `begin`."""
        if _announcing:
            raise WouldRun(self)

    def begin(self) -> None:
        """Take the done-mark away and leave a manifest that says 'running'."""
        self.announce()
        if self.folder.is_symlink():  # an equal stage of another road, which stays as it is
            self.folder.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "DONE").unlink(missing_ok=True)
        self._write_manifest("running", outputs={}, counts={})

    def finish(self, *, stats: Mapping[str, Any], outputs: Iterable[Path]) -> None:
        """Write stats.json and manifest.json, then DONE. Folders count file by file."""
        write_json(self.folder / "stats.json", dict(stats))
        files = [self.folder / "stats.json"]
        for path in map(Path, outputs):
            files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        digests = {
            os.path.relpath(path, self.folder): {
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
            }
            for path in files
        }
        counts = {key: value for key, value in stats.items() if isinstance(value, int | float)}
        self._write_manifest("done", outputs=digests, counts=counts)
        write_text(self.folder / "DONE", self.fingerprint + "\n")

    def _write_manifest(
        self, state: str, *, outputs: dict[str, Any], counts: dict[str, Any]
    ) -> None:
        now = time.time()
        write_json(
            self.folder / "manifest.json",
            {
                "format": MANIFEST_FORMAT,
                "version": MANIFEST_VERSION,
                "stage": self.name,
                "state": state,
                "fingerprint": self.fingerprint,
                "identity": self.identity,
                "config": {n: s.model_dump(mode="json") for n, s in self.config.items()},
                "inputs": {name: self._describe_input(name) for name in self.inputs},
                "outputs": outputs,
                "counts": counts,
                "code": code_version(),
                "seed": self.seed,
                "started": _utc(self._started),
                "finished": _utc(now) if state == "done" else None,
                "seconds": round(now - self._started, 3),
            },
        )

    def _describe_input(self, name: str) -> dict[str, Any]:
        item, source = self.inputs[name], self._sources[name]
        described: dict[str, Any] = {"path": str(item.path), "fingerprint": item.fingerprint}
        if not isinstance(source, StageInput):
            described["files"] = _stamps(item.path)
        return described

    def _digest_input(self, name: str, path: Path) -> StageInput:
        if not path.exists():
            raise UserError(f"{self.name}: the input '{name}' at {path} does not exist")
        stamps = _stamps(path)
        before = (self._before or {}).get("inputs", {}).get(name, {})
        if before.get("path") == str(path) and before.get("files") == stamps:
            return StageInput(path, before["fingerprint"])
        digests = {file: sha256_file(path / file if file else path) for file in stamps}
        return StageInput(path, sha256_json(digests))

    def _read_manifest(self) -> dict[str, Any] | None:
        path = self.folder / "manifest.json"
        if not path.is_file():
            return None
        manifest = read_json(path)
        if manifest.get("version") != MANIFEST_VERSION:
            raise UserError(
                f"{path} has manifest version {manifest.get('version')}; this program reads "
                f"{MANIFEST_VERSION}; move the folder away or use the program that wrote it"
            )
        return manifest


def _stamps(path: Path) -> dict[str, list[int]]:
    """File name relative to `path` ('' for a file itself) -> [bytes, time of change in ns]."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return {
        ("" if file == path else str(file.relative_to(path))): [
            file.stat().st_size,
            file.stat().st_mtime_ns,
        ]
        for file in files
    }


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        lines = []
        for key in sorted(before.keys() | now.keys()):
            path = f"{where}.{key}" if where else str(key)
            lines += _differences(before.get(key), now.get(key), path)
        return lines
    return [] if before == now else [f"{where}: {before!r} -> {now!r}"]


@functools.cache
def code_version() -> dict[str, str | None]:
    """Package version, and the commit when the package runs from a git checkout."""
    here = Path(__file__).resolve().parents[2]
    commit = None
    if (here / ".git").exists():
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        commit = result.stdout.strip() or None
    return {"version": __version__, "commit": commit}


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
