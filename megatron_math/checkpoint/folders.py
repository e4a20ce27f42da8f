"""What a folder of checkpoints looks like on disk, and which one to continue from. No torch.

    <save>/iter_0000500/                     Megatron's torch_dist files, plus ours:
        __0_0.distcp ... .metadata common.pt metadata.json
        model.json  data_state.json  tokenizer/
        complete.json                        written last: every file with bytes and digest
    <save>/release/                          weights only (imported, or fresh)
    <save>/latest_checkpointed_iteration.txt number of the newest one, or 'release'

A checkpoint grows under a name that starts with a dot and is renamed when complete, so a folder
with a proper name is whole. `complete.json` proves it against later damage, its own included.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import (
    PIECE_BYTES,
    blake3_of_pieces,
    blake3_piece,
    fsync_file,
    fsync_folder,
    num_pieces,
    read_json,
    sha256_file,
    sha256_json,
    write_text,
)
from megatron_math.base.log import log

TRACKER = "latest_checkpointed_iteration.txt"
COMPLETE = "complete.json"
RELEASE = "release"
FORMAT, VERSION = "megatron-math checkpoint", 2
DIGESTS = {1: "sha256", 2: "blake3_64mib"}
"""Of a file, by the version of complete.json."""


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


def temporary_name(save: Path, iteration: int | None, launch: str) -> Path:
    """Where a checkpoint grows. `launch` is a word that no other launch has.

    Writers of a killed run may live a moment longer, and must never write into the folder of the
    run that follows.
    """
    return save / f".{folder_name(iteration)}.tmp.{launch}"


def temporary_folder(save: Path, iteration: int | None) -> Path:
    """A new, empty folder for this process to write into."""
    folder = temporary_name(save, iteration, str(os.getpid()))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def seen(path: Path) -> dict[str, Any]:
    """What complete.json says of a file."""
    kind = DIGESTS[VERSION]
    return {"bytes": path.stat().st_size, kind: digests_of([path], kind)[0]}


def publish(
    temporary: Path,
    save: Path,
    iteration: int | None,
    *,
    known: Mapping[str, dict[str, Any]] | None = None,
) -> Checkpoint:
    """Seal `temporary` with complete.json, give it its name, and point the tracker at it.

    known: what was `seen` of files that are on disk, synced, already.
    """
    known = known or {}
    files = _files_in(temporary)
    for path in files:
        if str(path.relative_to(temporary)) not in known:
            fsync_file(path)
    seal(temporary, iteration, known)
    for folder in {path.parent for path in files} | {temporary}:
        fsync_folder(folder)
    final = save / folder_name(iteration)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    fsync_folder(save)
    write_text(save / TRACKER, f"{RELEASE if iteration is None else iteration}\n")
    return Checkpoint(final, iteration)


def sweep(save: Path) -> None:
    """Remove what killed saves left behind."""
    for leftover in save.glob(".*.tmp.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def retire(save: Path, *, keep: int, always: frozenset[int] = frozenset()) -> list[Path]:
    """Take old checkpoints out of `save`; returns what is left to remove of them.

    The newest `keep` and the iterations `always` stay. A checkpoint that misses files does not
    count among the newest: the last good one is never taken. What is taken loses its name first, so
    that a half removed one is never found.
    """
    found = complete_checkpoints(save)
    whole = [checkpoint for checkpoint in found if not faults(checkpoint.folder, deep=False)]
    if not whole:
        return []
    oldest = whole[-keep:][0].iteration or 0
    taken = []
    for checkpoint in found:
        if (checkpoint.iteration or 0) < oldest and checkpoint.iteration not in always:
            hidden = temporary_name(save, checkpoint.iteration, "removed")
            os.replace(checkpoint.folder, hidden)
            taken.append(hidden)
    return taken


def _files_in(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file() and path != folder / COMPLETE)
    return sorted(found)


def seal(
    folder: Path, iteration: int | None, known: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Write complete.json: bytes and digests of the files that are in `folder` now."""
    entries = dict(known or {})
    files = [path for path in _files_in(folder) if str(path.relative_to(folder)) not in entries]
    digests = digests_of(files, DIGESTS[VERSION])
    for path, digest in zip(files, digests, strict=True):
        name = str(path.relative_to(folder))
        entries[name] = {"bytes": path.stat().st_size, DIGESTS[VERSION]: digest}
    head = {
        "format": FORMAT, "version": VERSION, "iteration": iteration,
        "files": dict(sorted(entries.items())),
    }  # fmt: skip
    write_text(folder / COMPLETE, _text_of(head | {"digest": sha256_json(head)}))


def _text_of(mark: dict[str, Any]) -> str:
    """complete.json has this form and no other, so that no byte of it may change."""
    return json.dumps(mark, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def digests_of(files: Collection[Path], kind: str) -> list[str]:
    """Digests of files; pieces of all of them are read side by side."""
    sizes = [path.stat().st_size for path in files]
    is_little = sum(sizes) < PIECE_BYTES
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        side_by_side: Any = map if is_little else pool.map
        if kind == "sha256":
            return list(side_by_side(sha256_file, files))
        counts = [num_pieces(size) for size in sizes]
        places = [
            (path, n) for path, count in zip(files, counts, strict=True) for n in range(count)
        ]
        pieces = side_by_side(lambda place: blake3_piece(*place), places)
        return [blake3_of_pieces(islice(pieces, count)) for count in counts]


def faults(folder: Path, *, deep: bool = True, only: Collection[str] | None = None) -> list[str]:
    """Why `folder` cannot be trusted, in words; an empty list when it can.

    deep: digests too. only: of these files, where the others do not matter.
    """
    mark, found = _read_mark(folder)
    if mark is None:
        return found
    kind = DIGESTS[mark["version"]]
    listed = mark["files"]
    if only is not None:
        found += [
            f"{name} is not one of the files in {COMPLETE}" for name in only if name not in listed
        ]
        listed = {name: listed[name] for name in only if name in listed}
    whole = {}
    for name, expected in listed.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != expected["bytes"]:
            found.append(f"{name} has {path.stat().st_size} bytes, {expected['bytes']} expected")
        else:
            whole[path] = (name, expected[kind])
    if deep:
        digests = digests_of(whole, kind)
        found += [
            f"{name} does not match its digest"
            for (name, expected), digest in zip(whole.values(), digests, strict=True)
            if digest != expected
        ]
    return found


def _read_mark(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """complete.json where it can be believed, and what speaks against it."""
    path = folder / COMPLETE
    if not path.is_file():
        return None, [f"{COMPLETE} is missing: the save never ended, or another program wrote it"]
    damaged = [f"{COMPLETE} is damaged"]
    try:
        text = path.read_bytes().decode("utf-8")
        mark = json.loads(text)
        version = mark["version"]
        if mark["format"] == FORMAT and type(version) is int and version > VERSION:
            return None, [f"{COMPLETE} has version {version}; this program reads 1 to {VERSION}"]
        rest = {key: value for key, value in mark.items() if key != "digest"}
        is_sound = (
            mark["format"] == FORMAT
            and version in DIGESTS
            and _text_of(mark) == text
            and (version == 1 or mark["digest"] == sha256_json(rest))
            and all({"bytes", DIGESTS[version]} <= set(one) for one in mark["files"].values())
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, damaged
    if not is_sound:
        return None, damaged
    number = re.fullmatch(r"iter_(\d{7,})", folder.name)
    named = int(number.group(1)) if number else None
    if mark["iteration"] != named and (number or folder.name == RELEASE):
        said = folder_name(mark["iteration"])
        return None, [f"{COMPLETE} is that of {said}, and the folder is {folder.name}"]
    return mark, []


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


def go_back(save: Path, iteration: int) -> Checkpoint | None:
    """The newest good checkpoint of `iteration` or before; later ones are taken out of `save`.

    They lose their names first, so that a half removed one is never found.
    """
    for checkpoint in complete_checkpoints(save):
        if checkpoint.iteration is not None and checkpoint.iteration > iteration:
            hidden = temporary_name(save, checkpoint.iteration, "behind")
            os.replace(checkpoint.folder, hidden)
            shutil.rmtree(hidden)
    found = newest_good(save)
    if found is not None:
        write_text(save / TRACKER, f"{found.iteration}\n")
    return found


def tracked(save: Path) -> int | None:
    """The iteration of the newest checkpoint as the tracker has it, None for weights only.

    A save that was killed at its very end leaves the tracker one behind; the newest complete one
    counts then. Raises UserError where the tracker cannot be right.
    """
    text = (save / TRACKER).read_bytes().decode("utf-8", "replace").strip()
    newest = complete_checkpoints(save)[-1:]
    if text == RELEASE and (save / RELEASE).is_dir():
        return None
    if re.fullmatch("[0-9]+", text) and (save / folder_name(int(text))).is_dir():
        number = int(text)
        if newest and (newest[0].iteration or 0) > number:
            log.warning(
                "%s names %d, and %s is complete: taking that one",
                save / TRACKER, number, newest[0].folder.name,
            )  # fmt: skip
            return newest[0].iteration
        return number
    known = newest[0].folder.name if newest else RELEASE if (save / RELEASE).is_dir() else "none"
    raise UserError(
        f"{save / TRACKER} names {text!r:.40}, which is not there; the newest complete checkpoint "
        f"is {known}: give its folder, or put its number into that file"
    )


def open_checkpoint(path: Path, iteration: int | None = None) -> Checkpoint:
    """The checkpoint at `path` (a folder of checkpoints or one of them), verified.

    Raises UserError when there is none, or when it is damaged.
    """
    path = Path(path)
    if (path / TRACKER).is_file():
        path = path / folder_name(tracked(path) if iteration is None else iteration)
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}; give a folder with {TRACKER} or iter_*/ in it")
    problems = faults(path)
    if problems:
        raise UserError(f"the checkpoint {path} cannot be used: {'; '.join(problems)}")
    match = re.fullmatch(r"iter_(\d{7,})", path.name)
    return Checkpoint(path, int(match.group(1)) if match else None)
