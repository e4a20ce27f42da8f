"""Near-duplicates: recall and precision against brute force, and one result for any order."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from megatron_math.base.road import Road
from megatron_math.curate import near_duplicates
from megatron_math.curate.config import NearDuplicatesConfig
from megatron_math.curate.dedup import normal_url, url_key
from megatron_math.curate.near_duplicates import NearDuplicates, bands_for, open_hasher
from megatron_math.curate.run import run
from megatron_math.native import reference_shingles
from megatron_math.native.row_search import flatten
from megatron_math.native.shingles import ShingleHasher
from megatron_math.native.text_digests import digests

WORDS = [a + b for a in ("ka", "lo", "mi", "nu", "pe", "ra", "so", "tu") for b in "abdefgklmnop"]


def planted(draw: random.Random, num_texts: int) -> list[str]:
    """Texts, and copies of half of them with a few words changed: Jaccard from 0.5 to 1."""
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(30, 200))) for _ in range(num_texts)]
    for text in texts[: num_texts // 2]:
        words = text.split()
        for _ in range(draw.randint(1, 1 + len(words) // 40)):
            words[draw.randrange(len(words))] = "changed"
        texts.append(" ".join(words))
    return texts


def settled(texts: list[str], folder: Path, threshold: float = 0.8, sources: int = 1):
    config = NearDuplicatesConfig(threshold=threshold)
    encoded = [text.encode() for text in texts]
    near = NearDuplicates(config, folder, lambda some: flatten([encoded[n] for n in some.tolist()]))
    per_source = -(-len(texts) // sources)
    for number in range(sources):
        near.begin_source()
        part = encoded[number * per_source : (number + 1) * per_source]
        near.add(digests(*flatten(part)), *open_hasher(config).bands(part))
    verdicts = near.settle()
    near.close()
    return verdicts


def test_signatures_and_jaccard_are_those_of_the_twin() -> None:
    texts = [
        t.encode() for t in ["", "a", "a b c", "a b c d e f g a b c d e", "ä 中 b " * 9, "\xff"]
    ]
    made = ShingleHasher(3, 4, 2)
    for threads in (1, 3):
        bands, num_words = made.bands(texts, num_threads=threads)
        expected = reference_shingles.bands(texts, 3, 4, 2)
        np.testing.assert_array_equal(bands, expected[0])
        np.testing.assert_array_equal(num_words, expected[1])
    pairs = np.array(list(itertools.product(range(len(texts)), repeat=2)))
    index = made.jaccard(texts, *(side.copy() for side in pairs.T))
    assert index.tolist() == [
        reference_shingles.jaccard(texts[i], texts[j], 3) for i, j in pairs.tolist()
    ]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_bands_miss_one_pair_in_four_hundred_at_the_threshold(threshold: float) -> None:
    num_bands, rows = bands_for(threshold)
    assert 1 - (1 - threshold**rows) ** num_bands >= 0.9975
    assert num_bands * rows <= 288


def test_bands_at_the_ends() -> None:
    assert bands_for(1.0)[0] == 1
    assert bands_for(0.05)[1] == 1


def test_every_pair_at_the_threshold_is_found_and_nothing_else_goes(tmp_path: Path) -> None:
    texts = planted(random.Random(3), 400)
    verdicts = settled(texts, tmp_path)
    sets = [reference_shingles.shingles(text.encode(), 5) for text in texts]
    near = {
        (i, j)
        for i, j in itertools.combinations(range(len(texts)), 2)
        if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])
    }
    assert len(near) > 100
    found = {(i, j) for i, j in near if verdicts.survivors[i] == verdicts.survivors[j]}
    assert len(found) >= 0.99 * len(near)
    linked = {j for pair in near for j in pair}
    dropped = set(np.flatnonzero(verdicts.survivors != np.arange(len(texts))).tolist())
    assert dropped <= linked, "a text that is near to none was dropped"
    for i in dropped:
        assert verdicts.link[i] >= 0.8
        text, survivor = texts[i].encode(), texts[verdicts.survivors[i]].encode()
        assert verdicts.jaccard[i] == reference_shingles.jaccard(text, survivor, 5)


def test_the_order_of_records_changes_nothing(tmp_path: Path) -> None:
    draw = random.Random(5)
    texts = planted(draw, 300)
    kept = []
    for turn in range(3):
        survivors = settled(texts, tmp_path / str(turn)).survivors
        kept.append({texts[i] for i in survivors.tolist()})
        draw.shuffle(texts)
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) < len(texts)


def test_the_earlier_source_and_the_longer_text_stay(tmp_path: Path) -> None:
    base = " ".join(WORDS[:90])
    longer = base + " and some more"
    assert settled([base, longer], tmp_path / "a").survivors.tolist() == [1, 1]
    assert settled([base, longer], tmp_path / "b", sources=2).survivors.tolist() == [0, 0]


def test_chains_say_through_whom(tmp_path: Path) -> None:
    words = WORDS[:60]
    step = [words, [*words[4:], "x", "y"], [*words[8:], "x", "y", "z", "v"]]
    texts = [" ".join(one) for one in step]
    verdicts = settled(texts, tmp_path, threshold=0.85)
    assert verdicts.survivors.tolist() == [0, 0, 0]
    assert verdicts.jaccard[2] < 0.85 <= verdicts.link[2]
    assert verdicts.through[2] == 1


def test_texts_without_words_stay(tmp_path: Path) -> None:
    assert settled(["", "?!", "", "a"], tmp_path).survivors.tolist() == [0, 1, 2, 3]


def test_a_road_drops_them_with_reasons(tmp_path: Path) -> None:
    base = " ".join(WORDS[:60])
    rows = {
        "a": [
            {"id": "a0", "text": base, "meta": {"url": "https://www.x.org/p/?utm_source=q#top"}},
            {"id": "a1", "text": base.upper()},
            {"id": "a2", "text": "Another page.", "meta": {"url": "http://x.org/p"}},
        ],
        "b": [{"id": "b0", "text": base + " end"}, {"id": "b1", "text": "Quite another page."}],
    }
    for name, records in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    section = {
        "sources": {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in rows},
        "same_url": "drop",
        "near_duplicates": {},
    }
    path = tmp_path / "road.yaml"
    path.write_text(json.dumps({"name": "near", "curate": section}))
    folder = run(Road.load(path, runs=tmp_path / "runs")).folder
    drops = {
        row["id"]: row
        for path in sorted((folder / "drops").iterdir())
        for row in map(json.loads, path.open())
    }
    assert {i: row["reason"] for i, row in drops.items()} == {
        "a1": "duplicate", "a2": "same url", "b0": "near-duplicate"
    }  # fmt: skip
    assert drops["a2"]["url"] == "x.org/p"
    assert drops["b0"]["survivor"] == {"source": "a", "id": "a0"}
    assert drops["b0"]["jaccard"] == round(56 / 57, 4)
    assert not (folder / ".near_duplicates").exists()
    stats = json.loads((folder / "stats.json").read_text())
    assert (stats["read"], stats["kept"], stats["dropped"]) == (5, 2, 3)
    assert stats["near_duplicates"]["dropped"] == 1


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://WWW.Example.org:443/A/b/?utm_x=1&b=2&a=1#x", "example.org/A/b?a=1&b=2"),
        ("http://example.org", "example.org"),
        ("example.org/", "example.org"),
        ("http://example.org:8080/", "example.org:8080"),
        ("http://[bad", "http://[bad"),
        ("  ftp://h/x ", "h/x"),
    ],
)
def test_addresses_without_what_does_not_change_the_page(url: str, normal: str) -> None:
    assert normal_url(url) == normal


@pytest.mark.parametrize("url", [None, "", "  ", 7, ["x.org"]])
def test_what_is_no_address_has_no_key(url: object) -> None:
    assert url_key(url) is None


def test_half_a_surrogate_pair_in_an_address() -> None:
    assert url_key("x.org/?a=\ud800") != url_key("x.org/?a=b")


def test_pairs_that_are_known_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, pairs, known = random.Random(2), near_duplicates._Pairs(), set()
    for _ in range(200):
        names = np.array(draw.sample(range(3000), draw.randrange(9)), np.int64)
        assert pairs.hold(names).tolist() == [name in known for name in names.tolist()]
        pairs.add(names)
        known |= set(names.tolist())
    assert pairs.hold(np.arange(3000)).sum() == len(known)
    monkeypatch.setattr(near_duplicates, "REMEMBERED_PAIRS", len(known))
    pairs.add(np.array([5000]))
    assert pairs.hold(np.array([5000])).all()
    assert not pairs.hold(np.arange(3000)).any()
