"""Damage a checkpoint in one place, again and again; it must be found before anything is used.

    python tests/soak/checkpoint_flips.py [--flips 10000] [--seed 1] [--megabytes 1000]
                                          [--sabotage NAME]

Two checkpoints lie in a folder. In each round something happens to the newer one: mostly one byte
of one file changes (complete.json and the tracker are files, too), or a file is cut, grows, goes,
changes places with another or comes from the older checkpoint, or the two folders exchange names.
Then the damaged one must be refused in words, and a run must continue from the older one. With
--megabytes it also measures how long going back takes when both are that large.

Prints the numbers as a line of JSON. Exit code 1 when something was not found. --sabotage breaks
the program in one way, which must be noticed.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import write_json
from megatron_math.base.log import set_up_logging
from megatron_math.checkpoint import folders
from megatron_math.checkpoint.folders import (
    COMPLETE,
    TRACKER,
    newest_good,
    open_checkpoint,
    publish,
    temporary_folder,
)

OLDER, NEWER = 10, 20
KINDS = {
    "byte": 80, "byte of complete.json": 8, "byte of the tracker": 2, "cut": 2, "grown": 2,
    "gone": 2, "exchanged": 1, "from the older one": 2, "names exchanged": 1,
}  # fmt: skip


def make_save(save: Path, shards_bytes: Collection[int]) -> None:
    """Two checkpoints with the files that training leaves."""
    block = random.Random(0).randbytes(1 << 20)
    for iteration in (OLDER, NEWER):
        folder = temporary_folder(save, iteration)
        for number, size in enumerate(shards_bytes):
            with (folder / f"__{number}_0.distcp").open("wb") as file:
                file.write(f"{iteration} {number} ".encode())
                while (left := size - file.tell()) > 0:
                    file.write(block[:left])
        (folder / ".metadata").write_bytes(block[iteration : iteration + 2_000])
        (folder / "common.pt").write_bytes(block[iteration + 9 : iteration + 1_900])
        write_json(folder / "metadata.json", {"sharded_backend": "torch_dist"})
        write_json(folder / "data_state.json", {"iteration": iteration, "stages": []})
        write_json(folder / "model.json", {"num_layers": 2, "hidden_size": 32})
        (folder / "tokenizer").mkdir()
        write_json(folder / "tokenizer" / "tokenizer.json", {"vocab": list(range(99))})
        (folder / "tokenizer" / "empty.txt").touch()
        publish(folder, save, iteration)


class Damage:
    """One round's harm, and its undoing."""

    def __init__(self, save: Path, source: random.Random) -> None:
        self.save, self.random = save, source
        self.folder = save / folders.folder_name(NEWER)
        self.older = save / folders.folder_name(OLDER)
        self._before: dict[Path, bytes] = {}
        self._exchanged = False
        self.what = ""

    def do(self, kind: str) -> None:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        filled = [path for path in files if path.stat().st_size]
        path = self.random.choice(filled)
        if kind.startswith("byte"):
            own = {"byte": path, "byte of complete.json": self.folder / COMPLETE}
            self._flip(own.get(kind, self.save / TRACKER))
        elif kind == "cut":
            data = self._keep(path)
            path.write_bytes(data[: self.random.randrange(len(data))])
        elif kind == "grown":
            path = self.random.choice(files)
            path.write_bytes(self._keep(path) + self.random.randbytes(self.random.randint(1, 9)))
        elif kind == "gone":
            path = self.random.choice(files)
            self._keep(path)
            path.unlink()
        elif kind == "exchanged":
            one, other = self.random.sample(files, 2)
            one_was, other_was = self._keep(one), self._keep(other)
            one.write_bytes(other_was)
            other.write_bytes(one_was)
            path = one
        elif kind == "from the older one":
            data = {p: (self.older / p.relative_to(self.folder)).read_bytes() for p in files}
            path = self.random.choice([p for p in files if data[p] != p.read_bytes()])
            self._keep(path)
            path.write_bytes(data[path])
        else:
            self._exchange()
            self._exchanged = True
        self.what = self.what or f"{kind}: {path.name}"

    def _flip(self, path: Path) -> None:
        data = bytearray(self._keep(path))
        at, change = self.random.randrange(len(data)), self.random.randrange(1, 256)
        if self.random.random() < 0.5:  # one bit
            change = 1 << self.random.randrange(8)
        data[at] ^= change
        path.write_bytes(data)
        self.what = f"byte {at} of {path.name} ^ {change}"

    def _keep(self, path: Path) -> bytes:
        self._before[path] = path.read_bytes()
        return self._before[path]

    def _exchange(self) -> None:
        aside = self.save / "aside"
        self.folder.rename(aside)
        self.older.rename(self.folder)
        aside.rename(self.older)

    def undo(self) -> None:
        for path, data in self._before.items():
            path.write_bytes(data)
        if self._exchanged:
            self._exchange()


def is_refused(path: Path) -> bool:
    try:
        open_checkpoint(path)
    except UserError as error:
        return bool(str(error))
    return False


def is_found(damage: Damage, kind: str) -> bool:
    """Refused before use, and the right checkpoint is taken in its place."""
    found = newest_good(damage.save)
    if kind == "byte of the tracker":  # it names a checkpoint, and must not name the wrong one
        is_right = found is not None and found.iteration == NEWER
        return is_right and (
            is_refused(damage.save) or open_checkpoint(damage.save).iteration == NEWER
        )
    if kind == "names exchanged":
        return found is None and is_refused(damage.folder) and is_refused(damage.older)
    is_older = found is not None and found.iteration == OLDER
    return is_older and is_refused(damage.folder) and is_refused(damage.save)


def campaign(flips: int, seed: int) -> dict[str, Any]:
    source = random.Random(seed)
    found: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    missed = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        save = Path(temporary) / "checkpoints"
        make_save(save, [3_000, 1_000])
        for _ in range(flips):
            kind = source.choices(list(KINDS), list(KINDS.values()))[0]
            damage = Damage(save, source)
            damage.do(kind)
            tried[kind] += 1
            try:
                is_seen = is_found(damage, kind)
            except Exception as error:  # noqa: BLE001 - a traceback is no refusal in words
                is_seen, damage.what = False, f"{damage.what}: {type(error).__name__}"
            if is_seen:
                found[kind] += 1
            else:
                missed.append(damage.what)
            damage.undo()
        whole = newest_good(save)
        assert whole is not None, "the undoing does not undo"
        assert whole.iteration == NEWER
    return {
        "flips": flips,
        "found": sum(found.values()),
        "missed": missed[:20],
        "by_kind": {kind: f"{found[kind]}/{tried[kind]}" for kind in KINDS if tried[kind]},
        "seconds": round(time.perf_counter() - started, 1),
    }


def fall_back_seconds(megabytes: int) -> dict[str, Any]:
    """From the newest of two checkpoints, damaged in its last byte, to the one before it."""
    with tempfile.TemporaryDirectory() as temporary:
        save = Path(temporary) / "checkpoints"
        share = megabytes * 1_000_000 // 4
        make_save(save, [share] * 4)
        damaged = save / folders.folder_name(NEWER) / "__3_0.distcp"
        with damaged.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        times = {}
        for state in ("warm", "cold"):
            if state == "cold":
                forget(save)
            started = time.perf_counter()
            found = newest_good(save)
            times[f"{state}_seconds"] = round(time.perf_counter() - started, 2)
            assert found is not None, "nothing to go back to"
            assert found.iteration == OLDER
        forget(save)
        started = time.perf_counter()
        read_all(save)
        times["cold_plain_read_seconds"] = round(time.perf_counter() - started, 2)
        return {"megabytes": megabytes, "cores": len(os.sched_getaffinity(0)), **times}


def read_all(save: Path) -> None:
    """What the disk alone takes."""
    buffer = bytearray(1 << 22)
    for path in save.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def forget(save: Path) -> None:
    """Ask the kernel to drop the files from its cache."""
    os.sync()
    for path in save.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def sabotage(name: str) -> None:
    """Break the program in one way."""
    if name == "sizes only":
        real = folders.faults
        folders.faults = lambda folder, **_: real(folder, deep=False)
    elif name == "nothing digested":
        folders.num_pieces = lambda num_bytes: 0  # type: ignore[attr-defined]
    elif name == "complete.json is believed":

        def believed(folder: Path) -> tuple[Any, list[str]]:
            try:
                return folders.read_json(folder / COMPLETE), []  # type: ignore[attr-defined]
            except (OSError, ValueError):
                return None, ["it cannot be read"]

        folders._read_mark = believed
    else:
        raise SystemExit(f"unknown sabotage '{name}'")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--megabytes", type=int, default=1000, help="0: no measurement")
    parser.add_argument("--sabotage")
    args = parser.parse_args()
    set_up_logging(quiet=True)
    folders.log.setLevel("ERROR")
    if args.sabotage:
        sabotage(args.sabotage)
    result = campaign(args.flips, args.seed)
    if args.megabytes:
        result["fall_back"] = fall_back_seconds(args.megabytes)
    print(json.dumps(result))
    return 0 if result["found"] == result["flips"] else 1


if __name__ == "__main__":
    sys.exit(main())
