"""The stage's bytes are those of its record-by-record twin, in one process and in shards."""

import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from record_by_record import curate

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.cli import main
from megatron_math.curate import blocks, order, parts
from megatron_math.curate.blocks import is_packed
from megatron_math.curate.config import CurateConfig
from megatron_math.curate.decontaminate import BenchmarkText, Searcher
from megatron_math.curate.run import run, run_merge, run_shard

BENCHMARK = """
name: exam
version: 1
rows: exam.jsonl
problem: {fields: [problem]}
reference: {field: answer}
id: id
prompt: "Question: {problem}"
example: "{problem}{solution}"
max_new_tokens: 8
answer_rules: [stated]
"""
EXAM = [
    "Mira's bakery sells 48 loaves on Monday and half as many on Tuesday. How many loaves does it "
    "sell in both days together, and how many more than on Sunday?",
    "Let $f(x) = \\frac{x^2}{3} - 7$ and $g(x) = 2x + 5$. What is the value of $f(g(4))$?",
]
WORDS = [a + b for a in ("ka", "lo", "mi", "nü", "pé", "ra", "中", "Tu") for b in "abdefgklmnop"]


def texts(draw: random.Random, count: int) -> list[str]:
    """Texts with repeats, near-copies, leaks, and characters that JSON escapes."""
    made: list[str] = []
    for _ in range(count):
        kind = draw.random()
        if kind < 0.15 and made:
            made.append(draw.choice(made).upper() + " \n")
        elif kind < 0.35 and made:
            words = draw.choice(made).split(" ")
            words[draw.randrange(len(words))] = draw.choice(WORDS)
            made.append(" ".join(words))
        elif kind < 0.45:
            made.append(f'Quiz 😀:\t{draw.choice(EXAM)}\r\n"Answers" \\ {draw.choice(WORDS)}')
        else:
            words = draw.choices(WORDS, k=draw.randint(1, 60))
            made.append(" ".join(words) + draw.choice(["", "\0", "\ud83d", "\u2028", "ß"]))
    return made


def row_of(draw: random.Random, number: int, text: str) -> dict[str, Any]:
    row: dict[str, Any] = draw.choice([{}, {"id": f"é{number}"}, {"id": number}, {"id": None}])
    row = dict(row)
    if draw.random() < 0.3:
        half = len(text) // 2
        names = draw.choice([("problem", "solution"), ("input", "output")])
        row |= dict(zip(names, (text[:half], text[half:]), strict=True))
    else:
        row["text"] = text
    if draw.random() < 0.4:
        host = draw.choice(["https://www.x.org/", "x.org"])
        row["meta"] = {"url": host + draw.choice("abcdefgh") + draw.choice(["", "?utm_a=1", "#b"])}
    return row | draw.choice([{}, {"source": "other"}, {"extra": [1, {"a": float("nan")}]}])


def write_file(draw: random.Random, path: Path, made: list[str]) -> Path:
    rows = [row_of(draw, number, text) for number, text in enumerate(made)]
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as parquet

        plain = [text.encode("utf-8", "replace").decode() for text in made]
        table = pa.table({"id": [f"p{n}" for n in range(len(made))], "text": plain})
        parquet.write_table(table, path)
        return path
    lines = []
    for row in rows:
        line = json.dumps(row, ensure_ascii=draw.random() < 0.5 or "\\ud83d" in json.dumps(row))
        lines.append(line + draw.choice(["", "", " ", "\r"]))
        lines += draw.choice([[], [], [""], [" \r"]])
    content = "\n".join(lines).encode("utf-8") + draw.choice([b"", b"\n"])
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def world(tmp_path: Path):
    """world(seed, **section) -> a road over files of all kinds, one of them empty."""

    def make(seed: int, **section: Any) -> Road:
        draw = random.Random(seed)
        (tmp_path / "exam.yaml").write_text(BENCHMARK)
        rows = [{"id": f"e{n}", "answer": "1", "problem": text} for n, text in enumerate(EXAM)]
        (tmp_path / "exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        made, names = texts(draw, 160), ["b", "a", "a", "c.gz", "c", "a.parquet", "b"]
        share = len(made) // len(names)
        files: dict[str, list[str]] = {}
        for number, name in enumerate(names):
            ending = f"{number}.parquet" if "parquet" in name else f"{number}.jsonl{name[1:]}"
            path = tmp_path / f"{name[0]}{ending}"
            some = made[number * share : (number + 1) * share]
            write_file(draw, path, some)
            files.setdefault(name[0], []).append(str(path))
        (tmp_path / "empty.jsonl").touch()
        files["b"].insert(1, str(tmp_path / "empty.jsonl"))
        sources = {name: {"path": paths} for name, paths in files.items()}
        road = {"name": "twin", "curate": {"sources": sources} | section}
        (tmp_path / "road.yaml").write_text(yaml.safe_dump(road, sort_keys=False))
        return Road.load(tmp_path / "road.yaml", runs=tmp_path / "runs")

    return make


def section(tmp_path: Path, *, leaks: bool, near: bool, url: bool, exact: bool) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "same_url": "drop" if url else "keep", "dedup": "exact" if exact else "none"
    }  # fmt: skip
    if near:
        asked["near_duplicates"] = {"threshold": 0.7}
    if leaks:
        benchmark = str(tmp_path / "exam.yaml")
        asked["decontaminate"] = {"benchmarks": [benchmark], "data": str(tmp_path)}
    return asked


def made_by(folder: Path) -> dict[str, bytes]:
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "DONE")
    }
    assert not any(part.startswith(".") for path in found for part in Path(path).parts)
    return found


def expected_of(road: Road, tmp_path: Path) -> dict[str, bytes]:
    config = road.section("curate", CurateConfig)
    files = {name: [Path(p) for p in source.path] for name, source in config.sources.items()}
    searcher = None
    if config.decontaminate is not None:
        rows = [BenchmarkText("exam", f"e{n}", text) for n, text in enumerate(EXAM)]
        searcher = Searcher(rows, "ngram10", "ngram13", "numbers")
    return curate(tmp_path / "near", config, files, searcher)


CASES = [
    {"leaks": leaks, "near": near, "url": url, "exact": exact}
    for leaks, near, (url, exact) in itertools.product(
        (False, True), (False, True), ((False, False), (True, True), (False, True), (True, False))
    )
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(k for k in case if case[k]))
def test_the_stage_writes_what_its_twin_writes(
    case: dict[str, bool], world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = CASES.index(case)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", [300, 5000, 1 << 21][seed % 3])
    road = world(seed, **section(tmp_path, **case))
    expected = expected_of(road, tmp_path)
    found = made_by(run(road).folder)
    stats = json.loads(found.pop("stats.json"))
    assert found == expected
    if any(case.values()):
        assert any(found[f"drops/{name}.jsonl"] for name in "abc")
    assert stats["sources"]["b"]["empty_files"] == 1
    assert "empty_files" not in stats["sources"]["a"]
    lines = {name: content.count(b"\n") for name, content in found.items()}
    for name, counts in stats["sources"].items():
        assert (counts["kept"], counts["dropped"]) == (
            lines[f"{name}.jsonl"], lines[f"drops/{name}.jsonl"]
        )  # fmt: skip
        assert counts["read"] == counts["kept"] + counts["dropped"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("near", [False, True])
def test_shards_in_any_order_make_the_same_bytes(
    count: int, near: bool, world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = world(count, **section(tmp_path, leaks=True, near=near, url=True, exact=True))
    expected = made_by(run(road).folder)
    monkeypatch.setattr(parts, "PIECE_BYTES", 2000)
    monkeypatch.setattr(parts, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 700)
    alone = Road.load(road.yaml_path, runs=tmp_path / "shared")
    numbers = list(range(count))
    random.Random(count).shuffle(numbers)
    for number in numbers:
        run_shard(alone, Shard(number, count))
        assert run_shard(alone, Shard(number, count)).was_done
    assert not (alone.folder("20_curate") / "DONE").exists()
    stage = run_merge(alone)
    assert made_by(stage.folder) == expected
    assert run(alone).was_done
    assert run_shard(alone, Shard(0, count)).was_done
    assert run_merge(alone).was_done


def test_pieces_are_all_of_the_files_and_shares_are_even(world, tmp_path: Path) -> None:
    road = world(1)
    files = {
        name: [Path(path) for path in source["path"]]
        for name, source in road.raw["curate"]["sources"].items()
    }
    for count in (1, 2, 5, 200):
        shards = parts.pieces_of(files, count)
        assert len(shards) == count
        pieces = [piece for shard in shards for piece in shard]
        assert len({piece.name for piece in pieces}) == len(pieces)
        for name, paths in files.items():
            for path in paths:
                some = [p for p in pieces if (p.source, p.path) == (name, path)]
                assert (some[0].begin, some[-1].stop) == (0, None)
                assert [p.stop for p in some[:-1]] == [p.begin for p in some[1:]]
                assert not is_packed(path) or len(some) == 1
    plain = {"a": [path for paths in files.values() for path in paths if not is_packed(path)]}
    total = sum(path.stat().st_size for path in plain["a"])
    for shard in parts.pieces_of(plain, 4):
        size = sum((p.stop or p.path.stat().st_size) - p.begin for p in shard)
        assert abs(size - total / 4) <= 1


def test_a_killed_shard_keeps_its_pieces(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PIECE_BYTES", 1000)
    road, written = world(2, **section(tmp_path, leaks=True, near=True, url=False, exact=True)), []

    def killed(piece, folder, examiner, real=parts.write_piece):
        written.append(piece.name)
        if len(written) == 4:
            raise KeyboardInterrupt
        return real(piece, folder, examiner)

    monkeypatch.setattr("megatron_math.curate.run.write_piece", killed)
    with pytest.raises(KeyboardInterrupt):
        run_shard(road, Shard(0, 2))
    shard = road.folder("20_curate") / order.SHARDS / "0000-of-0002"
    stamps = {path: path.stat().st_mtime_ns for path in shard.glob("*.npz")}
    assert len(stamps) == 3
    with pytest.raises(UserError, match=r"0000-of-0002 cannot be merged: it is not finished"):
        run_merge(road)
    run_shard(road, Shard(0, 2))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    changed = Road.load(road.yaml_path, ["curate.near_duplicates.threshold=0.9"], road.runs)
    with pytest.raises(UserError, match=r"threshold: 0\.7 -> 0\.9; run this shard again"):
        run_merge(changed)
    run_shard(changed, Shard(0, 2))
    assert all(path.stat().st_mtime_ns > stamps[path] for path in stamps), "made for another road"


def test_shards_that_do_not_fit_together_are_not_merged(world, tmp_path: Path) -> None:
    road = world(3)
    with pytest.raises(UserError, match="holds no shards"):
        run_merge(road)
    run_shard(road, Shard(0, 2))
    with pytest.raises(UserError, match=r"0001-of-0002 cannot be merged"):
        run_merge(road)
    run_shard(road, Shard(0, 3))
    with pytest.raises(UserError, match=r"shards of several splits \(\[2, 3\]\)"):
        run_merge(road)


def test_the_commands_of_a_job_array(world, tmp_path: Path, monkeypatch, capfd) -> None:
    road = world(4, **section(tmp_path, leaks=True, near=True, url=True, exact=True))
    expected = made_by(run(road).folder)
    command = ["curate", str(road.yaml_path), "--runs", str(tmp_path / "shared")]
    assert main([*command, "--shard", "1/2", "--dry-run"]) == 0
    assert not (tmp_path / "shared").exists()
    for name, value in (("ID", "0"), ("COUNT", "2"), ("MIN", "0"), ("MAX", "1")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert main(command) == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert main(command) == 0
    assert main([*command, "--merge", "--dry-run"]) == 0
    assert main([*command, "--merge"]) == 0
    assert made_by(tmp_path / "shared" / "twin" / "20_curate") == expected


def test_a_bad_line_is_named_by_shards_too(world, tmp_path: Path) -> None:
    road = world(5)
    path = Path(road.raw["curate"]["sources"]["a"]["path"][0])
    content = path.read_bytes()
    path.write_bytes(content + b'\n{"id": 1}\n')
    number = content.count(b"\n") + 2
    for read in (lambda: run(road), lambda: [run_shard(road, Shard(n, 9)) for n in range(9)]):
        with pytest.raises(UserError, match=rf"{path.name}, line {number}: a record needs"):
            read()


def test_sources_without_records(tmp_path: Path, caplog) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n \r\n")
    (tmp_path / "some.jsonl").write_bytes(b'{"id": "a", "text": "A text."}')
    sources = {"none": {"path": str(tmp_path / "empty.jsonl")}}
    path = tmp_path / "road.yaml"
    for near in ({}, {"near_duplicates": {}}):
        path.write_text(yaml.safe_dump({"name": "r", "curate": {"sources": sources} | near}))
        road = Road.load(path, runs=tmp_path / "runs")
        with pytest.raises(UserError, match=r"no records in any file of none \(.*empty\.jsonl\)"):
            run(road)
        assert not (road.folder("20_curate") / "DONE").exists()
        both = {"sources": sources | {"some": {"path": str(tmp_path / "*e*.jsonl")}}} | near
        path.write_text(yaml.safe_dump({"name": "r", "curate": both}))
        caplog.clear()
        folder = run(Road.load(path, runs=tmp_path / "runs")).folder
        assert (folder / "none.jsonl").read_bytes() == b""
        assert (folder / "some.jsonl").read_bytes() == b'{"id": "a", "text": "A text."}\n'
        counts = json.loads((folder / "stats.json").read_text())["sources"]
        assert (counts["none"]["read"], counts["none"]["empty_files"]) == (0, 1)
        assert (counts["some"]["read"], counts["some"]["empty_files"]) == (1, 1)
        assert "curate.sources.some: 1 of 2 files have no records" in caplog.text
