"""What a folder of checkpoints looks like on disk, and which one to continue from. No torch.

    <save>/iter_0000500/                     Megatron's torch_dist files, plus ours:
        __0_0.distcp ... .metadata common.pt metadata.json
        model.json  data_state.json  tokenizer/
        complete.json                        written last: every file with bytes and sha256
    <save>/release/                          weights only (imported, or fresh)
    <save>/latest_checkpointed_iteration.txt number of the newest one, or 'release'

A checkpoint grows under a name that starts with a dot and is renamed when complete, so a folder
with a proper name is whole. `complete.json` proves it against later damage.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import (
    fsync_file,
    fsync_folder,
    read_json,
    sha256_file,
    write_json,
    write_text,
)
from megatron_math.base.log import log

TRACKER = "latest_checkpointed_iteration.txt"
COMPLETE = "complete.json"
RELEASE = "release"
FORMAT, VERSION = "megatron-math checkpoint", 1


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder. `iteration` is None for weights only (`release`)."""

    folder: Path
    iteration: int | None

    def read(self, name: str) -> Any:
        """One of the JSON files inside, such as model.json or data_state.json."""
        return read_json(self.folder / name)


def folder_name(iteration: int | None) -> str:
    return RELEASE if iteration is None else f"iter_{iteration:07d}"


def temporary_folder(save: Path, iteration: int | None) -> Path:
    """An unused folder to write into.

    The name carries the process: writers forked by a killed run may live a moment longer, and
    must never write into the folder of the run that follows.
    """
    folder = save / f".{folder_name(iteration)}.tmp.{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish(temporary: Path, save: Path, iteration: int | None) -> Checkpoint:
    """Seal `temporary` with complete.json, give it its name, and point the tracker at it."""
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    digests = {}
    for path in files:
        fsync_file(path)
        digests[str(path.relative_to(temporary))] = {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
    head = {"format": FORMAT, "version": VERSION, "iteration": iteration}
    write_json(temporary / COMPLETE, head | {"files": digests})
    for folder in {path.parent for path in files} | {temporary}:
        fsync_folder(folder)
    final = save / folder_name(iteration)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    fsync_folder(save)
    write_text(save / TRACKER, f"{RELEASE if iteration is None else iteration}\n")
    return Checkpoint(final, iteration)


def sweep(save: Path, *, keep: int | None = None, always: tuple[int, ...] = ()) -> None:
    """Remove what killed saves left behind and, with `keep`, all but the newest checkpoints."""
    for leftover in save.glob(".*.tmp.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if keep is not None:
        for checkpoint in complete_checkpoints(save)[:-keep]:
            if checkpoint.iteration not in always:
                shutil.rmtree(checkpoint.folder)


def faults(folder: Path, *, deep: bool = True) -> list[str]:
    """Why `folder` cannot be trusted, in words; an empty list when it can. deep: digests too."""
    mark = folder / COMPLETE
    if not mark.is_file():
        return [f"{mark.name} is missing: the save never ended, or another program wrote it"]
    found = []
    for name, expected in read_json(mark)["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != expected["bytes"]:
            found.append(f"{name} has {path.stat().st_size} bytes, {expected['bytes']} expected")
        elif deep and sha256_file(path) != expected["sha256"]:
            found.append(f"{name} does not match its digest")
    return found


def complete_checkpoints(save: Path) -> list[Checkpoint]:
    """The numbered checkpoints in `save` with a completeness mark, oldest first."""
    if not save.is_dir():
        return []
    numbers = sorted(
        int(match.group(1))
        for path in save.iterdir()
        if (match := re.fullmatch(r"iter_(\d{7,})", path.name)) and (path / COMPLETE).is_file()
    )
    return [Checkpoint(save / folder_name(number), number) for number in numbers]


def newest_good(save: Path) -> Checkpoint | None:
    """The newest checkpoint that passes `faults`; damaged ones are named in the log."""
    for checkpoint in reversed(complete_checkpoints(save)):
        problems = faults(checkpoint.folder)
        if not problems:
            return checkpoint
        log.warning("%s is damaged (%s); going back one", checkpoint.folder, "; ".join(problems))
    return None


def open_checkpoint(path: Path, iteration: int | None = None) -> Checkpoint:
    """The checkpoint at `path` (a folder of checkpoints or one of them), verified.

    Raises UserError when there is none, or when it is damaged.
    """
    path = Path(path)
    if (path / TRACKER).is_file():
        tracked = (path / TRACKER).read_text(encoding="utf-8").strip()
        chosen = (
            iteration if iteration is not None else None if tracked == RELEASE else int(tracked)
        )
        path = path / folder_name(chosen)
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}; give a folder with {TRACKER} or iter_*/ in it")
    problems = faults(path)
    if problems:
        raise UserError(f"the checkpoint {path} cannot be used: {'; '.join(problems)}")
    match = re.fullmatch(r"iter_(\d{7,})", path.name)
    return Checkpoint(path, int(match.group(1)) if match else None)
