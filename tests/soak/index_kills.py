"""Kill a small tokenizing job again and again; whatever was killed must go on to the same bytes.

    python tests/soak/index_kills.py [--kills 1000] [--seed 1] [--last N] [--sabotage NAME]

A job (plain lines, gzip, parquet; two indexes, one with roles; units of 4 KiB) is begun beside an
older index, in a forked process that is killed: before or after one of its steps (every append,
flush, sync, rename, removal and entry of the journal counts), or after a random time. Some kills
are power cuts: what had not been synced is cut off or overwritten with garbage. Then the same job
runs on, maybe into the next kill. Checked after every kill: a sidecar that is there describes the
files beside it to the last byte, and an .idx without one fits its .bin. At the end: every file is
equal to the one of an unbroken run, and no other file is left.

Prints the numbers as JSON. Exit code 1 at the first difference. --sabotage breaks the program in
one way, which must be noticed: the negative controls of tests/index/test_kills.py.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "index"))

from small_jobs import contents, make_job, shrink_units, write_corpora

from megatron_math.base import files as files_module
from megatron_math.base.errors import UserError
from megatron_math.base.files import blake3_file, read_json
from megatron_math.base.log import set_up_logging
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.index import encode, journal
from megatron_math.index.encode import encode_files
from megatron_math.native.index_writer import IndexWriter
from megatron_math.native.output_file import OutputFile

WAYS = ("step before", "step after", "time", "power cut")
STEPS: list[tuple[Any, str]] = [
    *((OutputFile, name) for name in ("append", "flush", "overwrite", "sync", "sync_data")),
    *((IndexWriter, name) for name in ("add_documents", "flush", "sync_data", "complete")),
    (os, "replace"),
    (os, "fsync"),
    (Path, "unlink"),
    (journal, "write_json"),
    (encode, "write_json"),
]


class Steps:
    """Counts the steps of this process, of all its threads, and ends it at one of them."""

    def __init__(self, last: int, after: bool) -> None:
        self._last, self._after = last, after
        self._lock = threading.Lock()
        self.count = 0

    def watch(self) -> None:
        for place, name in STEPS:
            setattr(place, name, self._watched(getattr(place, name)))

    def _watched(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self.count += 1
                is_last = self.count == self._last
            if is_last and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = step(*arguments, **options)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return run


def in_child(work: Callable[[], None], seconds: float | None = None) -> int:
    """Exit code of a forked process that does the work; negative: the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            work()
            code = 0
        except (UserError, OSError, AssertionError, ValueError, RuntimeError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def lose_power(folder: Path, rng: random.Random) -> None:
    """What was not synced when the journal was written is lost, or is something else."""
    path = folder / "x.progress.json"
    if not path.is_file():
        return
    entry = read_json(path)
    if entry["state"] == journal.PUBLISHING:
        return  # all was synced before
    for name, kept_bytes in entry["partials"].items():
        size = (folder / name).stat().st_size
        end = rng.randint(kept_bytes, size) if size > kept_bytes else kept_bytes
        with open(folder / name, "r+b") as file:
            file.truncate(end)
            file.seek(kept_bytes)
            file.write(rng.randbytes(end - kept_bytes))


def require_consistent(folder: Path) -> None:
    for name in ("body", "qa"):
        prefix = folder / f"x_{name}_document"
        sidecar, idx = Path(f"{prefix}.json"), Path(f"{prefix}.idx")
        if sidecar.is_file():
            facts = read_json(sidecar)
            for kind in ("bin", "idx", "ids", "roles"):
                path = Path(f"{prefix}.{kind}")
                if facts[kind] is None:
                    assert not path.exists(), f"{path} is an older index's"
                else:
                    assert blake3_file(path) == facts[kind]["blake3"], f"{path} is another index's"
        elif idx.is_file():
            IndexedDocuments(prefix).check_pointers()


def campaign(folder: Path, kills: int, seed: int, last: int | None) -> dict[str, Any]:
    """last: kill at one of so many last steps only."""
    rng = random.Random(seed)
    older, newer = write_corpora(folder / "old", 30), write_corpora(folder / "in")
    before, expected = folder / "before", folder / "unbroken"
    encode_files(make_job(before, older[:1]), max_bad=1.0)
    job = make_job(expected, newer)
    started = time.monotonic()
    encode_files(job, num_workers=2, max_bad=1.0)
    seconds = time.monotonic() - started
    wanted = contents(expected)
    num_steps = _count_steps(folder / "counted", newer)
    counts: Counter[str] = Counter()
    out = folder / "out"
    while counts["kills"] < kills:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(before, out)
        counts["jobs"] += 1
        for _ in range(rng.randint(1, 4)):
            way = "step before" if last else rng.choice(WAYS)
            first = num_steps - last if last else rng.choice((1, 1, 97 * num_steps // 100))
            steps = Steps(rng.randint(first, num_steps), way == "step after" or rng.random() < 0.5)
            limit = rng.uniform(0, 1.2 * seconds) if way == "time" else None

            def work(steps: Steps = steps, way: str = way) -> None:
                if way != "time":
                    steps.watch()
                encode_files(
                    make_job(out, newer), num_workers=random.Random(seed).randint(1, 3), max_bad=1.0
                )

            code = in_child(work, limit)
            if code == 0:
                counts["ended before the kill"] += 1
                break
            assert code == -signal.SIGKILL, f"exit code {code} after {way}"
            counts["kills"] += 1
            counts[way] += 1
            counts["with a journal"] += (out / "x.progress.json").is_file()
            require_consistent(out)
            if way == "power cut":
                lose_power(out, rng)
        code = in_child(lambda: encode_files(make_job(out, newer), max_bad=1.0) and None)
        assert code == 0, f"exit code {code} of the last run"
        found = contents(out)
        extra = sorted(found.keys() - wanted.keys() - {"x.lock"})
        assert not extra, f"left behind: {extra}"
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        assert not differing, f"other bytes than in the unbroken run: {differing}"
    return dict(counts) | {"steps of a run": num_steps, "seconds of a run": round(seconds, 3)}


def _count_steps(folder: Path, files: list[Path]) -> int:
    told = folder.with_suffix(".steps")

    def work() -> None:
        steps = Steps(-1, False)
        steps.watch()
        encode_files(make_job(folder, files), num_workers=2, max_bad=1.0)
        told.write_text(str(steps.count))

    assert in_child(work) == 0
    return int(told.read_text())


def sabotage(name: str) -> None:
    """Break the program in one way."""
    if name == "no truncation":  # what follows the good bytes stays
        real = OutputFile.__init__

        def keep_all(self: OutputFile, path: Path, keep_bytes: int | None = None) -> None:
            partial = path.with_name(path.name + ".partial")
            known = keep_bytes is not None and partial.is_file()
            real(self, path, partial.stat().st_size if known else keep_bytes)

        OutputFile.__init__ = keep_all  # type: ignore[method-assign]
    elif name == "journal ahead":  # it tells of a block that is not written
        entry = encode._Encoding._entry

        def ahead(self: Any, state: str) -> dict[str, Any]:
            told = entry(self, state)
            position = told["progress"]["position"]
            if position["byte"]:
                position["byte"] += 512
            return told

        encode._Encoding._entry = ahead  # type: ignore[method-assign]
    elif name == "old sidecar stays":  # renames in the order of the suffixes

        def careless(prefix: Path, sizes: dict[str, int | None]) -> None:
            for suffix, num_bytes in sizes.items():
                journal.publish_file(journal.beside(prefix, suffix), num_bytes)

        encode.publish = careless
    else:
        raise SystemExit(f"unknown sabotage '{name}'")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary one")
    parser.add_argument("--last", type=int, help="kill at the last so many steps (publishing)")
    parser.add_argument("--sabotage")
    args = parser.parse_args()
    set_up_logging(quiet=True)
    shrink_units()
    if args.sabotage:
        sabotage(args.sabotage)
    assert files_module.PIECE_BYTES < 1 << 20
    with tempfile.TemporaryDirectory() as temporary:
        try:
            found = campaign(args.folder or Path(temporary), args.kills, args.seed, args.last)
        except AssertionError as error:
            print(f"seed {args.seed}: {error}", file=sys.stderr)
            return 1
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
