"""encode_files: the same bytes whatever the workers, lineage, accounting, refusals, reuse."""

import errno
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import (
    ByteTokenizer,
    contents,
    lines_of,
    make_job,
    write_corpora,
)

from megatron_math.base.errors import UserError
from megatron_math.base.files import blake3_64mib, blake3_file, read_json
from megatron_math.dataset.documents import ROLES, IndexedDocuments
from megatron_math.index import encode as encode_module
from megatron_math.index.building import Output
from megatron_math.index.encode import Job, encode_files, reusable_sidecar
from megatron_math.index.journal import JobLock
from megatron_math.index.recipes import Recipe
from megatron_math.index.record_ids import RecordIds
from megatron_math.tokenizer import Tokenizer

BODY = {"body": Recipe(key="body")}


@pytest.fixture
def small(small_units: None, tmp_path: Path) -> Path:
    """A folder with corpora of many units and blocks."""
    write_corpora(tmp_path / "in")
    return tmp_path


def corpora(folder: Path) -> list[Path]:
    return sorted((folder / "in").iterdir())


def test_workers_do_not_change_a_byte(small: Path) -> None:
    results = []
    for num_workers in (1, 2, 5):
        job = make_job(small / f"w{num_workers}", corpora(small))
        encode_files(job, num_workers=num_workers, max_bad=1.0)
        results.append(contents(small / f"w{num_workers}"))
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 10  # two indexes, one of them with roles, and the quarantine


def test_blocks_do_not_change_a_byte(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_files(make_job(small / "a", corpora(small)), max_bad=1.0)
    monkeypatch.setattr("megatron_math.index.blocks.BLOCK_BYTES", 4096)
    encode_files(make_job(small / "b", corpora(small)), max_bad=1.0)
    one, other = contents(small / "a"), contents(small / "b")
    for name, content in one.items():
        if not name.endswith(".json"):  # which counts the documents compared, by block
            assert content == other[name], name


def quarantined(folder: Path) -> list[dict[str, Any]]:
    content = (folder / "x_quarantine.jsonl").read_bytes()
    return [json.loads(line) for line in content.split(b"\n") if line]


def plain_python(files: list[Path], key: str) -> tuple[list[list[int]], list[str]]:
    """(ids, record ids) of every document as a loop over the lines would find them."""
    import pyarrow.parquet as parquet

    rows, names = [], []
    for path in files:
        if path.suffix == ".parquet":
            lines = [json.dumps(row).encode() for row in parquet.read_table(path).to_pylist()]
        else:
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get(key), str) and row[key]:
                rows.append([0, *(byte + 2 for byte in row[key].encode()), 1])
                names.append(str(row.get("id", f"{path.name}:{number}")))
    return rows, names


def test_documents_lineage_and_accounting_are_what_a_plain_loop_finds(small: Path) -> None:
    files = corpora(small)
    (sidecar, with_roles) = encode_files(make_job(small / "out", files), max_bad=1.0)
    rows, names = plain_python(files, "body")
    index = IndexedDocuments(small / "out" / "x_body_document")
    index.check_pointers()
    assert [index.document(i).tolist() for i in range(len(index))] == rows
    ids = RecordIds(small / "out" / "x_body_document.ids")
    assert [ids[i] for i in range(len(ids))] == names
    assert ids.files == [str(path) for path in files]
    counts = sidecar["accounting"]
    assert counts["written"] == sidecar["documents"] == len(rows)
    assert counts["lines"] == counts["written"] + counts["empty"] + counts["quarantined"]
    assert counts["lines"] == sum(source["lines"] for source in sidecar["sources"])
    assert sidecar["text_bytes"] == sum(len(row) - 2 for row in rows)
    aside = quarantined(small / "out")
    reasons = {row["reason"].split(":")[0] for row in aside}
    assert {"not JSON", "invalid UTF-8", "not an object", "no key 'body'"} <= reasons
    assert {"key 'body' is no string"} <= reasons
    assert counts["quarantined"] == sum("no text" not in row["reason"] for row in aside)
    for row in aside[:20]:
        if not row["file"].endswith((".gz", ".parquet")):
            line = Path(row["file"]).read_bytes()[row["byte"] : row["byte"] + row["bytes"]]
            assert line.decode("utf-8", "backslashreplace")[:200] == row["begins"]
            assert Path(row["file"]).read_bytes()[: row["byte"]].count(b"\n") == row["line"] - 1
    assert with_roles["roles"]["bytes"] == with_roles["tokens"]


def test_a_sidecar_tells_the_digests(small: Path) -> None:
    files = corpora(small)
    for sidecar in encode_files(make_job(small / "out", files), max_bad=1.0):
        name = "body" if sidecar["recipe"]["key"] else "qa"
        prefix = small / "out" / f"x_{name}_document"
        assert sidecar == read_json(Path(f"{prefix}.json"))
        for kind in ("bin", "idx", "ids", "roles"):
            path = Path(f"{prefix}.{kind}")
            found = path.is_file() and {"bytes": path.stat().st_size, "blake3": blake3_file(path)}
            assert (sidecar[kind] or False) == found
        told = {source["path"]: source["blake3_64mib"] for source in sidecar["sources"]}
        assert told == {str(path): blake3_64mib(path) for path in files}
        assert sidecar["engine"]["compared"] > 8  # units are compared again and again
        assert sidecar["shard"] is None


def test_plain_texts_among_problems_have_the_role_other(small_units: None, tmp_path: Path) -> None:
    rows = [{"text": f"plain {i} " * 30} for i in range(60)]
    rows += [{"problem": "p?", "solution": "s!"}, {"text": "plain again"}]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    encode_files(make_job(tmp_path / "out", [path], recipes={"text": Recipe()}))
    index = IndexedDocuments(tmp_path / "out" / "x_text_document")
    index.require_roles("this test")
    assert set(index.roles(5, 0, int(index.lengths_D[5]))) == {ROLES["other"]}
    assert set(index.roles(60, 0, int(index.lengths_D[60]))) == {ROLES["prompt"], ROLES["solution"]}
    assert set(index.roles(61, 0, int(index.lengths_D[61]))) == {ROLES["other"]}


def test_an_older_roles_file_does_not_survive(small: Path) -> None:
    out = small / "out"
    encode_files(
        make_job(out, corpora(small), recipes={"text": Recipe(template="{problem}{solution}")}),
        max_bad=1.0,
    )
    assert (out / "x_text_document.roles").is_file()
    encode_files(make_job(out, corpora(small), recipes={"text": Recipe(key="body")}), max_bad=1.0)
    assert not (out / "x_text_document.roles").exists()


def test_names_with_newlines_and_spaces(small: Path) -> None:
    (sidecar, _) = encode_files(make_job(small / "out", corpora(small)), max_bad=1.0)
    assert [Path(s["path"]).name for s in sidecar["sources"]] == [
        "a b.jsonl", "b\nß.jsonl.gz", "c.parquet", "d.jsonl", "e.json",
    ]  # fmt: skip


def test_too_many_bad_lines_stop_the_run(small: Path) -> None:
    path = small / "x.jsonl"
    good = b'{"body": "fine"}\n'
    path.write_bytes(good * 50 + b"oops\n" + good * 49)
    job = make_job(small / "out", [path], recipes=BODY)
    with pytest.raises(
        UserError, match=r"1 of 100 lines cannot be used, .* 1 x not JSON"
    ) as caught:
        encode_files(job, max_bad=0.009)
    assert f"{path}, line 51: not JSON" in str(caught.value)
    assert "--max-bad" in str(caught.value)
    kept = sorted(contents(small / "out"))
    assert "x_quarantine.jsonl" in kept
    assert not any(name.startswith("x_body_document.") and "partial" not in name for name in kept)
    (sidecar,) = encode_files(job, max_bad=0.01)  # exactly that share is allowed
    assert sidecar["accounting"] == {"lines": 100, "written": 99, "empty": 0, "quarantined": 1}
    path.write_bytes(good)
    encode_files(job)
    assert sorted(contents(small / "out")) == [
        f"x_body_document.{k}" for k in ("bin", "ids", "idx", "json")
    ]


def test_a_corpus_of_garbage_stops_early(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small / "x.jsonl"
    path.write_bytes(b"garbage\n" * 10_000)
    with pytest.raises(UserError, match=r"of \d\d? lines cannot be used"):
        encode_files(make_job(small / "out", [path], recipes=BODY))


def test_no_document_at_all(small: Path) -> None:
    path = small / "x.jsonl"
    path.write_bytes(b'\n\n{"body": ""}\n')
    with pytest.raises(UserError, match="no documents in .*: 3 lines"):
        encode_files(make_job(small / "out", [path], recipes=BODY))
    assert contents(small / "out") == {}


def test_a_line_that_is_too_long_is_put_aside(small: Path) -> None:
    path = small / "x.jsonl"
    long_line = json.dumps({"body": "x" * 9000}).encode()
    path.write_bytes(b'{"body": "a"}\n' + long_line + b'\n{"body": "b"}')
    for name, most, written in (("out", len(long_line) - 1, 2), ("all", len(long_line), 3)):
        job = make_job(small / name, [path], recipes=BODY, max_line_bytes=most)
        (sidecar,) = encode_files(job, max_bad=1.0)
        assert sidecar["accounting"]["written"] == written
    (row,) = quarantined(small / "out")
    assert (row["line"], row["byte"], row["bytes"]) == (2, 14, len(long_line))
    assert row["begins"] == long_line[:200].decode()
    assert row["reason"] == f"longer than {len(long_line) - 1} bytes"


@pytest.mark.parametrize("change", ["touched", "grown", "cut"])
def test_a_file_that_changes_meanwhile_is_refused(
    small: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path, real = small / "in" / "a b.jsonl", encode_module.read_blocks

    def read_and_change(file: Path, **options: Any) -> Any:
        for number, block in enumerate(real(file, **options)):
            if number == 3 and file == path:
                if change == "touched":
                    os.utime(path, ns=(1, 1))
                elif change == "grown":
                    path.write_bytes(path.read_bytes() + b'{"body": "more"}\n')
                else:
                    os.truncate(path, 3000)
            yield block

    monkeypatch.setattr(encode_module, "read_blocks", read_and_change)
    with pytest.raises(UserError, match="changed while it was being read"):
        encode_files(make_job(small / "out", corpora(small)), max_bad=1.0)
    assert not list((small / "out").glob("*.idx"))


@pytest.mark.parametrize("workers", [1, 3])
def test_an_engine_that_differs_is_given_up(
    small: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The letter q first appears in a later unit: everything is done again by the reference."""
    monkeypatch.setattr("megatron_math.base.log.log.propagate", True)
    path = small / "x.jsonl"
    path.write_bytes(lines_of(1, 100) + b'{"body": "quick"}\n' * 400)
    job = make_job(small / "odd", [path], tokenizer=ByteTokenizer(odd="q"), recipes=BODY)
    (sidecar,) = encode_files(job, num_workers=workers, max_bad=1.0)
    assert sidecar["engine"]["name"] == "reference 1"
    assert "disagree about" in sidecar["engine"]["why"]
    assert "starting again with the reference" in caplog.text
    expected = make_job(small / "even", [path], recipes=BODY)
    (fast,) = encode_files(expected, max_bad=1.0)
    assert fast["engine"]["name"] == "fast 1"
    assert sidecar["bin"] == fast["bin"]


def test_only_one_process_at_a_time(small: Path) -> None:
    job = make_job(small / "out", corpora(small))
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from pathlib import Path; from small_jobs import *\n"
        "from megatron_math.index.encode import encode_files\n"
        "encode_files(make_job(Path(sys.argv[2]), [Path(sys.argv[3])]), max_bad=1.0)\n"
    )
    arguments = [str(Path(__file__).parent), str(small / "out"), str(small / "in" / "e.json")]
    with JobLock(job.path):
        result = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
        )
        assert "another process is writing these files" in result.stderr
        with pytest.raises(BlockingIOError):
            encode_files(job, max_bad=1.0)
    encode_files(job, max_bad=1.0)
    assert not (small / "out" / "x.lock").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-30],
        lambda b: b[: len(b) // 2],
        lambda b: b[:20] + b"\xff" * 8 + b[28:],
        lambda b: b + b"garbage",
        lambda b: b"",
    ],
    ids=["cut", "half", "broken", "garbage behind", "empty"],
)
@pytest.mark.parametrize("kind", ["x.jsonl.gz", "x.jsonl.zst", "x.parquet"])
def test_a_damaged_archive_is_refused_whatever_is_allowed(
    small: Path, kind: str, damage: Callable[[bytes], bytes]
) -> None:
    import pyarrow
    from pyarrow import parquet

    path = small / kind
    text = lines_of(1, 300)
    if kind.endswith("gz"):
        path.write_bytes(gzip.compress(text))
    elif kind.endswith("zst"):
        with pyarrow.output_stream(str(path), compression="zstd") as file:
            file.write(text)
    else:
        rows = {"body": [f"{i * i} documents" for i in range(900)]}
        parquet.write_table(pyarrow.table(rows), path, row_group_size=100)
    encode_files(make_job(small / "whole", [path], recipes=BODY), max_bad=1.0)  # control
    path.write_bytes(damage(path.read_bytes()))
    job = make_job(small / "out", [small / "in" / "a b.jsonl", path], recipes=BODY)
    with pytest.raises(UserError, match=f"{path.name} .*fetch it again"):
        encode_files(job, max_bad=1.0)
    names = [p.name for p in (small / "out").iterdir() if not p.name.endswith(".partial")]
    assert names in ([], ["x.progress.json"])


def test_gzip_members_and_padding(small: Path) -> None:
    path, text = small / "x.jsonl.gz", lines_of(1, 50)
    members = [gzip.compress(text[:700]), gzip.compress(b""), gzip.compress(text[700:])]
    (small / "x.jsonl").write_bytes(text)
    (plain,) = encode_files(make_job(small / "a", [small / "x.jsonl"], recipes=BODY), max_bad=1.0)
    for number, content in enumerate((b"".join(members), b"".join(members) + bytes(700))):
        path.write_bytes(content)
        (packed,) = encode_files(make_job(small / f"{number}", [path], recipes=BODY), max_bad=1.0)
        assert packed["bin"] == plain["bin"]


FULL_DISK = """
import resource, sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from small_jobs import make_job, shrink_units
from megatron_math.index.encode import encode_files
shrink_units()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), -1))
try:
    encode_files(make_job(Path(sys.argv[3]), sorted(Path(sys.argv[2]).iterdir())), max_bad=1.0)
except OSError as error:
    print(error.errno, error, file=sys.stderr)
    sys.exit(7)
"""


@pytest.mark.parametrize("share", [0.03, 0.2, 0.6, 0.99])
def test_a_full_disk_leaves_the_earlier_index_and_the_same_command_goes_on(
    small: Path, share: float
) -> None:
    """RLIMIT_FSIZE stands in for the disk, a share of the largest file."""
    out, files = small / "out", corpora(small)
    encode_files(make_job(out, files[:1]), max_bad=1.0)
    encode_files(make_job(small / "other", files), max_bad=1.0)
    before = contents(out)
    limit = int(share * max(path.stat().st_size for path in (small / "other").iterdir()))
    arguments = [str(Path(__file__).parent), str(small / "in"), str(out), str(limit)]
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 7, result.stderr
    assert f"{errno.EFBIG} " in result.stderr
    assert "bytes at offset" in result.stderr or "x.progress" in result.stderr
    assert ".partial" in result.stderr or "x.progress" in result.stderr
    after = contents(out)
    assert {name: after.get(name) for name in before} == before
    encode_files(make_job(out, files), max_bad=1.0)
    assert contents(out) == contents(small / "other")


def test_only_the_same_index_is_reused(small: Path) -> None:
    files = corpora(small)
    job = make_job(small / "out", files, recipes=BODY)
    (sidecar,) = encode_files(job, max_bad=1.0)

    def reused(**changes: Any) -> bool:
        other = make_job(small / "out", files, **({"recipes": BODY} | changes))
        found = reusable_sidecar(other, other.outputs[0])
        assert found in (None, sidecar)
        return found is not None

    assert reused()
    assert not reused(engine="reference")
    assert not reused(max_line_bytes=5000)
    assert not reused(recipes={"body": Recipe(template="{problem} {solution}")})
    path = small / "in" / "a b.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"What", b"Whet"))
    assert not reused()
    path.write_bytes(content)
    assert reused()
    target = small / "out" / "x_body_document.bin"
    target.write_bytes(target.read_bytes()[:-2])
    assert not reused()


def test_bos_where_the_tokenizer_asks_for_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    job = Job(
        tmp_path / "x", [path], [Output(tmp_path / "x", Recipe(key="text"))], tokenizer,
        tmp_path / "q.jsonl", append_eod=True,
    )  # fmt: skip
    (sidecar,) = encode_files(job)
    first = np.fromfile(tmp_path / "x.bin", np.dtype(sidecar["dtype"]))[0]
    assert (first == tokenizer.bos_id) == tokenizer.adds_bos == sidecar["prepend_bos"]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"X" + b[1:], lambda b: b[:10]])
def test_damaged_record_ids_are_refused(small: Path, damage: Callable[[bytes], bytes]) -> None:
    encode_files(make_job(small / "out", corpora(small), recipes=BODY), max_bad=1.0)
    ids = small / "out" / "x_body_document.ids"
    with pytest.raises(IndexError, match="document 1000 of"):
        RecordIds(ids)[1000]
    ids.write_bytes(damage(ids.read_bytes()))
    with pytest.raises(UserError, match="is no whole file of record ids"):
        RecordIds(ids)


def test_record_ids_of_the_first_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ids").write_bytes(b"MMRECIDS" + (1).to_bytes(8, "little") + bytes(64))
    with pytest.raises(UserError, match="has version 1 of the record ids, this program reads 2"):
        RecordIds(tmp_path / "x.ids")
