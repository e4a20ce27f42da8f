"""Units, shards and merging: any split and its merge are one run; unlike indexes are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_jobs import ByteTokenizer, contents, lines_of, make_job, write_corpora

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.index.encode import encode_files
from megatron_math.index.merge import find_shards, merge_indexes, merge_quarantines, merge_shards
from megatron_math.index.recipes import Recipe
from megatron_math.index.units import Corpus, Shard

BODY = {"body": Recipe(key="body")}
KINDS = ("body", "qa")


def split_and_merge(folder: Path, files: list[Path], count: int) -> dict[str, bytes]:
    for index in range(count):
        job = make_job(folder, files, shard=Shard(index, count))
        encode_files(job, num_workers=1 + index % 3, max_bad=1.0)
    prefixes = [folder / f"x_{kind}_document" for kind in KINDS]
    shards = [find_shards(prefix) for prefix in prefixes]
    for prefix, parts in zip(prefixes, shards, strict=True):
        merge_shards(prefix, parts)
    aside = [folder / f"x_quarantine{Shard(i, count).suffix}.jsonl" for i in range(count)]
    merge_quarantines(shards[0], aside, folder / "x_quarantine.jsonl")
    return {name: data for name, data in contents(folder).items() if "shard" not in name}


def test_any_split_is_one_run(small_units: None, tmp_path: Path) -> None:
    files = write_corpora(tmp_path / "in")
    encode_files(make_job(tmp_path / "whole", files), max_bad=1.0)
    whole = contents(tmp_path / "whole")
    assert len(whole) == 10
    for count in (1, 3, 7, 40):
        assert split_and_merge(tmp_path / f"{count}", files, count) == whole, count


def test_a_line_number_that_is_not_shifted_is_seen(small_units: None, tmp_path: Path) -> None:
    """Control: shards count lines from their own beginning, and merging mends it."""
    files = write_corpora(tmp_path / "in")
    for index in range(3):
        encode_files(make_job(tmp_path, files, shard=Shard(index, 3)), max_bad=1.0)
    sources = read_json(tmp_path / "x_body_document.shard-0001-of-0003.json")["sources"]
    assert sources[0]["begin"] > 0
    sidecar = tmp_path / "x_body_document.shard-0000-of-0003.json"
    facts = read_json(sidecar)
    facts["sources"][-1]["lines"] += 1
    write_json(sidecar, facts)
    encode_files(make_job(tmp_path / "whole", files), max_bad=1.0)
    merge_shards(tmp_path / "x_body_document", find_shards(tmp_path / "x_body_document"))
    name = "x_body_document.ids"
    assert (tmp_path / name).read_bytes() != (tmp_path / "whole" / name).read_bytes()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=6), count=st.integers(1, 9))
def test_spans_of_all_shards_are_the_corpus(
    small_units: None, tmp_path: Path, sizes: list[int], count: int
) -> None:
    paths = []
    for number, size in enumerate(sizes):
        paths.append(tmp_path / f"{number}.{'jsonl.gz' if number % 3 == 2 else 'jsonl'}")
        paths[-1].write_bytes(bytes(size))
    corpus = Corpus(paths)
    spans = [span for index in range(count) for span in corpus.spans(Shard(index, count))]
    assert [span.number for span in spans] == sorted(span.number for span in spans)
    for number, size in enumerate(sizes):
        own = [span for span in spans if span.number == number]
        assert own[0].begin == 0
        assert own[-1].stop is None
        assert all(a.stop == b.begin for a, b in zip(own[:-1], own[1:], strict=True))
        assert len(own) == 1 or size > 4096
    assert corpus.spans(None) == corpus.spans(Shard(0, 1))
    checked = sum(corpus.check_bytes(n, u) > 0 for n, s in enumerate(sizes)
                  for u in range(max(1, -(-s // 4096)) if n % 3 != 2 else 1))  # fmt: skip
    assert checked <= 2 + sum(sizes) // 4096


def test_shards_that_do_not_belong_together(small_units: None, tmp_path: Path) -> None:
    files = write_corpora(tmp_path / "in")
    prefix = tmp_path / "x_body_document"
    with pytest.raises(UserError, match="has no shards; write them with --shard I/N first"):
        find_shards(prefix)
    for index in (0, 2):
        encode_files(make_job(tmp_path, files, shard=Shard(index, 3)), max_bad=1.0)
    with pytest.raises(UserError, match=r"of 3 shards these are not finished: 1; run them again"):
        find_shards(prefix)
    odd = ByteTokenizer(odd="w")
    encode_files(make_job(tmp_path, files, shard=Shard(1, 3), tokenizer=odd), max_bad=1.0)
    with pytest.raises(UserError, match=r"0 and 1 were made of different engines .*--engine refer"):
        merge_shards(prefix, find_shards(prefix))
    encode_files(make_job(tmp_path, files[:1], shard=Shard(1, 3)), max_bad=1.0)
    with pytest.raises(UserError, match="shards 0 and 1 were made of different files"):
        merge_shards(prefix, find_shards(prefix))
    encode_files(make_job(tmp_path, files, shard=Shard(1, 4)), max_bad=1.0)
    with pytest.raises(UserError, match=r"has shards of splits in \[3, 4\]"):
        find_shards(prefix)


def two_indexes(folder: Path) -> tuple[list[Path], list[Path]]:
    files = []
    for number in (1, 2):
        files.append(folder / f"{number}.jsonl")
        files[-1].write_bytes(lines_of(number, 150))
        encode_files(make_job(folder / f"{number}", files[-1:]), max_bad=1.0)
    return files, [folder / f"{number}" for number in (1, 2)]


def test_merging_is_indexing_all_the_input(small_units: None, tmp_path: Path) -> None:
    files, folders = two_indexes(tmp_path)
    encode_files(make_job(tmp_path / "whole", files), max_bad=1.0)
    for kind in KINDS:
        parts = [folder / f"x_{kind}_document" for folder in folders]
        sidecar = merge_indexes(parts, tmp_path / "merged" / f"x_{kind}_document", verify=True)
        whole = read_json(tmp_path / "whole" / f"x_{kind}_document.json")
        assert sidecar is not None
        assert sidecar["engine"].pop("compared") >= whole["engine"].pop("compared")
        assert sidecar == whole
    merged, expected = contents(tmp_path / "merged"), contents(tmp_path / "whole")
    assert len(merged) == 9
    for name, content in merged.items():
        if not name.endswith(".json"):
            assert content == expected[name], name


def core_index(prefix: Path, documents: list[list[int]], sizes: list[int] | None = None) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for document in documents:
        lengths = [len(document)] if sizes is None else sizes
        builder.add_document(torch.tensor(document), lengths)
    builder.finalize(f"{prefix}.idx")


def test_indexes_of_megatron_core(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Documents of several sequences keep their boundaries, as core's own add_index keeps them."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    rng = np.random.default_rng(1)
    parts = []
    for number in range(3):
        parts.append(tmp_path / f"part{number}")
        rows = [rng.integers(0, 900, 6).tolist() for _ in range(number * 20)]
        core_index(parts[-1], rows, [4, 2] if number == 1 else None)
    assert merge_indexes(parts, tmp_path / "merged") is None
    builder = IndexedDatasetBuilder(str(tmp_path / "core.bin"), dtype=np.uint16)
    for part in parts:
        builder.add_index(str(part))
    builder.finalize(str(tmp_path / "core.idx"))
    for suffix in (".bin", ".idx"):
        merged = (tmp_path / f"merged{suffix}").read_bytes()
        assert merged == (tmp_path / f"core{suffix}").read_bytes()
    assert sorted(p.name for p in tmp_path.glob("merged*")) == ["merged.bin", "merged.idx"]


def change_sidecar(folder: Path, change: Callable[[Any], None]) -> None:
    path = folder / "x_body_document.json"
    facts = read_json(path)
    change(facts)
    write_json(path, facts)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change_sidecar(f, lambda s: s["tokenizer"].clear()), "differ in tokenizer"),
        (lambda f: change_sidecar(f, lambda s: s.update(append_eod=False)), "differ in append_eod"),
        (lambda f: (f / "x_body_document.json").unlink(), "only one of them has a sidecar"),
        (lambda f: (f / "x_body_document.ids").unlink(), "only one of them has record ids"),
        (lambda f: (f / "x_body_document.idx").unlink(), "is not there"),
        (lambda f: corrupt(f / "x_body_document.bin", 11), "is not what its sidecar describes"),
        (lambda f: corrupt(f / "x_body_document.ids", 100), "is not what its sidecar describes"),
        (lambda f: corrupt(f / "x_body_document.idx", 36), "is damaged"),
        (lambda f: corrupt(f / "x_body_document.idx", -3), "do not rise"),
        (lambda f: change_sidecar(f, lambda s: s.update(version=1)), "no sidecar of version 3"),
    ],
)  # fmt: skip
def test_unlike_and_damaged_indexes_are_refused(
    small_units: None, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    _, folders = two_indexes(tmp_path)
    prefixes = [folder / "x_body_document" for folder in folders]
    output = tmp_path / "out" / "x"
    merge_indexes(prefixes, output, verify=True)
    before = contents(tmp_path / "out")
    damage(folders[1])
    with pytest.raises(UserError, match=message):
        merge_indexes(prefixes, output, verify=True)
    assert contents(tmp_path / "out") == before


def corrupt(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x80
    path.write_bytes(content)


def test_roles_of_some_only_are_refused(small_units: None, tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text('{"text": "plain"}\n' * 9)
    qa = tmp_path / "qa.jsonl"
    qa.write_text(json.dumps({"problem": "p", "solution": "s"}) + "\n")
    recipes = {"text": Recipe()}
    for file in (path, qa):
        encode_files(make_job(tmp_path / file.stem, [file], recipes=recipes))
    prefixes = [tmp_path / name / "x_text_document" for name in ("plain", "qa")]
    with pytest.raises(UserError, match=r"some of these indexes have roles, but not .*plain"):
        merge_indexes(prefixes, tmp_path / "merged")
    folder = tmp_path / "split"  # shards of one job may: the merge is what one run writes
    for index in range(2):
        job = make_job(folder, [path, qa], recipes=recipes, shard=Shard(index, 2))
        encode_files(job)
    encode_files(make_job(tmp_path / "whole", [path, qa], recipes=recipes))
    merge_shards(folder / "x_text_document", find_shards(folder / "x_text_document"))
    roles = [(f / "x_text_document.roles").read_bytes() for f in (folder, tmp_path / "whole")]
    assert roles[0] == roles[1]
    assert not (folder / "x_text_document.shard-0000-of-0002.roles").exists()


def test_an_index_is_not_merged_with_itself(small_units: None, tmp_path: Path) -> None:
    _, folders = two_indexes(tmp_path)
    prefix = folders[0] / "x_body_document"
    for prefixes, output in (([prefix, prefix], tmp_path / "o"), ([prefix], prefix)):
        with pytest.raises(UserError, match="is there twice"):
            merge_indexes(prefixes, output)


def test_many_small_parts(small_units: None, tmp_path: Path) -> None:
    """Blocks of the merge's own are crossed."""
    _, folders = two_indexes(tmp_path)
    prefixes = []
    for number in range(12):
        shutil.copytree(folders[number % 2], tmp_path / f"copy{number}")
        prefixes.append(tmp_path / f"copy{number}" / "x_body_document")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("megatron_math.index.merge.ROWS_TOGETHER", 7)
        patch.setattr("megatron_math.index.merge.CHUNK_BYTES", 100)
        merge_indexes(prefixes, tmp_path / "small")
    merge_indexes(prefixes, tmp_path / "large")
    for kind in ("bin", "idx", "ids"):
        assert (
            Path(f"{tmp_path}/small.{kind}").read_bytes()
            == Path(f"{tmp_path}/large.{kind}").read_bytes()
        )
    index = IndexedDocuments(tmp_path / "small")
    index.check_pointers()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"ID": "3", "COUNT": "8", "MIN": "0", "MAX": "7"}, Shard(3, 8)),
        ({"ID": "3", "COUNT": "3", "MIN": "1", "MAX": "3"}, Shard(2, 3)),
        ({"ID": "3", "COUNT": "2", "MIN": "1", "MAX": "3"}, UserError),
    ],
)
def test_the_shard_of_a_slurm_task(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Any
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    if expected is UserError:
        with pytest.raises(UserError, match="shards need all of them"):
            Shard.of_slurm_array()
    else:
        assert Shard.of_slurm_array() == expected
