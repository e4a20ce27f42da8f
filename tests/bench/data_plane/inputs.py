"""The files the measures read: parts of the gathered corpus, and synthetic indexes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from timing import REPOSITORY

BENCH = Path(__file__).resolve().parents[1]
SMALLEST_FULL_MB = 200


class Corpus:
    """A JSONL file; text_bytes counts the texts as UTF-8, which all rates are about."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.text_bytes: int = facts["text_bytes"]

    @property
    def megabytes(self) -> float:
        return self.text_bytes / 1e6


def whole_corpus(folder: Path) -> Corpus:
    """Gathered at the first call, in a process of its own."""
    if not (folder / "all.json").is_file():
        subprocess.run([sys.executable, BENCH / "data_plane" / "corpus.py", folder], check=True)
    return _open(folder, "all")


def part_of_corpus(folder: Path, megabytes: int) -> Corpus:
    """The first documents that together hold so much text, or all there is."""
    whole = whole_corpus(folder)
    if whole.megabytes <= megabytes:
        return whole
    return _written(folder, f"{megabytes}mb", lambda: _lines_up_to(whole, megabytes * 10**6))


def halves(corpus: Corpus) -> Path:
    """A folder with the corpus in two files of equally many documents."""
    folder = corpus.path.with_suffix(".halves")
    if not (folder / "1.jsonl").is_file():
        folder.mkdir(exist_ok=True)
        half = (corpus.facts["documents"] + 1) // 2
        with open(corpus.path, "rb") as lines, open(folder / "0.jsonl", "wb") as first:
            for _ in range(half):
                first.write(next(lines))
            with open(folder / "1.partial", "wb") as second:
                second.writelines(lines)
        (folder / "1.partial").rename(folder / "1.jsonl")
    return folder


def _lines_up_to(corpus: Corpus, text_bytes: int) -> Iterator[bytes]:
    with open(corpus.path, "rb") as lines:
        for line in lines:
            if text_bytes <= 0:
                return
            text_bytes -= len(json.loads(line)["text"].encode())
            yield line


def _written(folder: Path, name: str, lines: Callable[[], Iterator[bytes]]) -> Corpus:
    if not (folder / f"{name}.json").is_file():
        documents = text_bytes = 0
        with open(folder / f"{name}.jsonl", "wb") as file:
            for line in lines():
                file.write(line)
                documents += 1
                text_bytes += len(json.loads(line)["text"].encode())
        facts = {"documents": documents, "text_bytes": text_bytes}
        (folder / f"{name}.json").write_text(json.dumps(facts) + "\n")
    return _open(folder, name)


def _open(folder: Path, name: str) -> Corpus:
    return Corpus(folder / f"{name}.jsonl", json.loads((folder / f"{name}.json").read_text()))


def warm(path: Path) -> None:
    """Read a file once, so that both sides find it in the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def shown(command: list[str | Path], work: Path) -> str:
    """The command as a reader would type it in the repository: no path of this machine."""
    words = []
    for word in map(str, command):
        word = word.replace(str(work), "WORK").replace(f"{REPOSITORY}/", "")
        words.append("python" if word.endswith("/bin/python") or word == sys.executable else word)
    return " ".join(words)
