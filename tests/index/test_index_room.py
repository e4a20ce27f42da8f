"""The index room on a road: tokenizers, sources, resumption, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.index import run as room
from megatron_math.index.encode import Job, encode_files
from megatron_math.index.run import run, run_merge, run_shard
from megatron_math.index.units import Shard
from megatron_math.tokenizer import load_tokenizer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two corpora and a finished 10_synthesize."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"General text number {i} speaks of the weather."} for i in range(200)]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    stage = tmp_path / "runs" / "road" / "10_synthesize"
    stage.mkdir(parents=True)
    problems = [
        {"id": f"p{i}", "problem": f"What is {i} + 1?", "solution": f"{i} + 1 = {i + 1}."}
        for i in range(100)
    ]
    (stage / "problems.jsonl").write_text("".join(json.dumps(r) + "\n" for r in problems))
    (stage / "DONE").write_text("fingerprint\n")
    return tmp_path


SOURCES = {
    "general": {"path": "general.jsonl"},
    "problems": {"stage": "10_synthesize", "file": "problems.jsonl"},
}
TRAINED = {"train": {"vocab_size": 360}}


def road(index: dict[str, Any], name: str = "road") -> Road:
    path = Path(f"{name.replace('/', '_')}.yaml")
    path.write_text(yaml.safe_dump({"name": name, "seed": 1, "index": index}, sort_keys=False))
    return Road.load(path)


def files_of(stage_folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in stage_folder.glob("*_text_document.*")}


def test_train_a_tokenizer_and_index_two_sources(folder: Path) -> None:
    stage = run(road({"tokenizer": TRAINED, "sources": SOURCES, "workers": 1}))
    assert len(files_of(stage.folder)) == 9  # roles of the problems
    tokenizer = load_tokenizer(stage.folder / "tokenizer")
    assert tokenizer.size == 360
    sidecar = json.loads((stage.folder / "problems_text_document.json").read_text())
    assert sidecar["tokenizer"] == tokenizer.describe()
    assert sidecar["documents"] == 100
    stats = json.loads((stage.folder / "stats.json").read_text())
    assert stats["documents"] == 300
    assert stats["sources"]["general"]["documents"] == 200
    assert stats["tokens"] == sum(source["tokens"] for source in stats["sources"].values())
    # Same again: nothing is done, whatever the number of workers is.
    again = run(road({"tokenizer": TRAINED, "sources": SOURCES, "workers": 2}))
    assert again.was_done


def test_a_tokenizer_can_be_trained_on_some_sources(folder: Path) -> None:
    sizes = {}
    for names in (["general"], ["problems"]):
        train = {"vocab_size": 310, "sources": names}
        stage = run(road({"tokenizer": {"train": train}, "sources": SOURCES}))
        sizes[names[0]] = len(load_tokenizer(stage.folder / "tokenizer").encode("the weather"))
    assert sizes["general"] < sizes["problems"]


def test_a_given_tokenizer_is_copied(folder: Path, tokenizer_files: dict[str, Path]) -> None:
    given = tokenizer_files["TikTokenizer"]
    stage = run(road({"tokenizer": str(given), "sources": {"general": SOURCES["general"]}}))
    copied = load_tokenizer(stage.folder / "tokenizer")
    assert copied.fingerprint == load_tokenizer(given).fingerprint


def test_base_is_the_tokenizer_of_00_base(folder: Path, tokenizer_files: dict[str, Path]) -> None:
    index = {"sources": {"general": SOURCES["general"]}}
    with pytest.raises(UserError, match="00_base is needed and is not finished"):
        run(road(index))
    base = folder / "runs" / "road" / "00_base"
    base.mkdir()
    (base / "DONE").write_text("f\n")
    with pytest.raises(UserError, match="this base has no tokenizer"):
        run(road(index))
    load_tokenizer(tokenizer_files["HuggingFaceTokenizer"]).save(base / "tokenizer")
    stage = run(road(index))
    copied = load_tokenizer(stage.folder / "tokenizer")
    assert copied.fingerprint == load_tokenizer(base / "tokenizer").fingerprint


def test_a_changed_corpus_is_indexed_again_and_the_other_one_is_not(
    folder: Path, tokenizer_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = {"tokenizer": str(tokenizer_files["SentencePieceTokenizer"]), "sources": SOURCES}
    before = files_of(run(road(index)).folder)
    with (folder / "general.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    encoded = []

    def recorded(job: Job, **options: Any) -> list[dict[str, Any]]:
        encoded.append(job.files)
        return encode_files(job, **options)

    monkeypatch.setattr(room, "encode_files", recorded)
    after = files_of(run(road(index)).folder)
    assert encoded == [[Path("general.jsonl")]]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"general_text_document.{s}" for s in ("bin", "idx", "ids", "json")}


def test_a_failed_source_leaves_the_stage_unfinished_and_continues(
    folder: Path, tokenizer_files: dict[str, Path]
) -> None:
    corpus = folder / "general.jsonl"
    good = corpus.read_text()
    corpus.write_text(good + "oops\n")
    sources = {"problems": SOURCES["problems"], "general": SOURCES["general"]}
    index = {"tokenizer": str(tokenizer_files["SentencePieceTokenizer"]), "sources": sources}
    with pytest.raises(UserError, match=r"1 of 201 lines .*general.jsonl, line 201: not JSON"):
        run(road(index))
    stage_folder = folder / "runs" / "road" / "30_index"
    assert not (stage_folder / "DONE").exists()
    assert {name.split("_")[0] for name in files_of(stage_folder)} == {"problems"}
    first = (stage_folder / "problems_text_document.bin").stat().st_mtime_ns
    corpus.write_text(good)
    run(road(index))
    assert (stage_folder / "DONE").exists()
    assert (stage_folder / "problems_text_document.bin").stat().st_mtime_ns == first


def test_sources_that_left_the_road_leave_the_folder(
    folder: Path, tokenizer_files: dict[str, Path]
) -> None:
    tokenizer = str(tokenizer_files["SentencePieceTokenizer"])
    stage = run(road({"tokenizer": tokenizer, "sources": SOURCES}))
    run(road({"tokenizer": tokenizer, "sources": {"general": SOURCES["general"]}}))
    assert {name.split("_")[0] for name in files_of(stage.folder)} == {"general"}


def test_what_cannot_be_used_lies_in_drops(folder: Path, tokenizer_files: dict[str, Path]) -> None:
    with (folder / "general.jsonl").open("a") as file:
        file.write("oops\n")
    tokenizer = str(tokenizer_files["SentencePieceTokenizer"])
    stage = run(road({"tokenizer": tokenizer, "sources": SOURCES, "max_bad": 0.01}))
    (row,) = (stage.folder / "drops" / "general.jsonl").read_text().splitlines()
    assert json.loads(row) == {
        "file": "general.jsonl",
        "line": 201,
        "byte": (folder / "general.jsonl").stat().st_size - 5,
        "bytes": 4,
        "reason": json.loads(row)["reason"],
        "begins": "oops",
    }
    assert json.loads(row)["reason"].startswith("not JSON")
    manifest = json.loads((stage.folder / "manifest.json").read_text())
    assert "drops/general.jsonl" in manifest["outputs"]
    stats = json.loads((stage.folder / "stats.json").read_text())
    assert (stats["lines"], stats["documents"], stats["quarantined"]) == (301, 300, 1)


@pytest.mark.parametrize("count", [1, 3])
def test_shards_and_their_merge_are_the_stage(
    folder: Path, tokenizer_files: dict[str, Path], small_units: None, count: int
) -> None:
    with (folder / "general.jsonl").open("a") as file:
        file.write("oops\n" + '{"text": "after"}\n' * 400)
    index = {
        "tokenizer": str(tokenizer_files["SentencePieceTokenizer"]),
        "sources": SOURCES,
        "max_bad": 0.1,
    }
    whole = run(road(index))
    expected = files_of(whole.folder) | {
        "drops": (whole.folder / "drops/general.jsonl").read_bytes()
    }
    shutil.rmtree(whole.folder)
    with pytest.raises(UserError, match="holds no shards"):
        run_merge(road(index))
    for number in range(count):
        shard = run_shard(road(index), Shard(number, count))
        assert (shard.folder / "DONE").is_file()
        assert run_shard(road(index), Shard(number, count)).was_done
        if number < count - 1:
            with pytest.raises(UserError, match="cannot be merged"):
                run_merge(road(index))
    with pytest.raises(UserError, match="cannot be merged: config.index.append_eod"):
        run_merge(road(index | {"append_eod": False}))
    merged = run_merge(road(index))
    found = files_of(merged.folder) | {
        "drops": (merged.folder / "drops/general.jsonl").read_bytes()
    }
    assert found == expected
    assert not (merged.folder / "shards").exists()
    assert run(road(index)).was_done
    assert run_merge(road(index)).was_done


def test_shards_cannot_train_a_tokenizer(folder: Path) -> None:
    with pytest.raises(UserError, match="is to be trained, which shards cannot do"):
        run_shard(road({"tokenizer": TRAINED, "sources": SOURCES}), Shard(0, 2))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"sources": {"a": {"path": "x"}}, "max_bad": 2}, "index.max_bad"),
        ({"sources": {"a": {"path": "x"}}, "max_line_bytes": 5}, "index.max_line_bytes"),
        ({"sources": {"a": {"path": "x"}}, "engine": "fast"}, "index.engine"),
        ({"sources": {}}, "index.sources"),
        ({"sources": {"a/b": {"path": "x"}}}, "must consist of letters"),
        ({"sources": {"a": {}}}, "give either 'path', or 'stage' together with 'file'"),
        ({"sources": {"a": {"path": "x", "stage": "20_curate", "file": "y"}}}, "give either"),
        ({"sources": {"a": {"stage": "50_train", "file": "y"}}}, "index.sources.a.stage"),
        ({"sources": {"a": {"path": "x", "pth": "y"}}}, "did you mean 'path'"),
        ({"sources": {"a": {"path": "x", "template": "{problem}"}}}, "found the fields"),
        (
            {"sources": {"a": {"path": "x", "template": "{problem}{solution}", "text_key": "t"}}},
            "has no effect beside",
        ),
        ({"sources": {"a": {"path": "general.jsonl"}}, "tokenizer": "absent"}, "absent does not"),
        ({"sources": {"a": {"path": "absent.jsonl"}}, "tokenizer": TRAINED}, "'absent.jsonl'"),
        ({"sources": {"a": {"stage": "20_curate", "file": "f.jsonl"}}}, "20_curate is needed"),
        ({"sources": {"a": {"path": "x"}}, "workers": 0}, "index.workers"),
        (
            {"sources": {"a": {"path": "x"}}, "tokenizer": {"train": {"vocab_size": 100}}},
            "vocab_size",
        ),
        (
            {
                "sources": {"a": {"path": "x"}},
                "tokenizer": {"train": {"vocab_size": 300, "sources": ["b"]}},
            },
            "names 'b'",
        ),
    ],
)
def test_bad_sections_are_refused_before_anything_is_made(
    folder: Path, index: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(road(index))
    assert message in str(caught.value)
    assert not (folder / "runs" / "road" / "30_index").exists()
