"""The recall loop on a small web of real pages: it finds mathematics, grows, ends, goes on."""

import fcntl
import glob
import json
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from toy_web import Row, Web, read_rows, toy_web, wikitext, write_rows

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.curate.order import read_order
from megatron_math.curate.recall import round as rounds
from megatron_math.curate.recall import run as recall_run
from megatron_math.curate.recall.config import DomainRuleConfig
from megatron_math.curate.recall.domains import grow, on_paths, read_paths
from megatron_math.curate.recall.pages import survey
from megatron_math.curate.run import run

SMALL = {"bits": 16}


@pytest.fixture(scope="module")
def web(shared_data: Path) -> Web:
    return toy_web(shared_data)


def make_road(folder: Path, web: Web, seed: list[Row] | None = None, **recall: Any) -> Road:
    """The pool in two files, a second source that is not in the pool."""
    folder.mkdir(parents=True, exist_ok=True)
    half = len(web.pool) // 2
    write_rows(folder / "web0.jsonl", web.pool[:half])
    write_rows(folder / "web1.jsonl", web.pool[half:])
    write_rows(folder / "seed.jsonl", web.seed if seed is None else seed)
    write_rows(folder / "books.jsonl", [{"id": "b0", "text": "A book about bread, kept whole."}])
    section = {
        "sources": {
            "web": {"path": str(folder / "web*.jsonl")},
            "books": {"path": str(folder / "books.jsonl")},
        },
        "recall": {
            "pool": ["web"],
            "seed": {"path": str(folder / "seed.jsonl")},
            "take": 250,
            "classifier": SMALL,
            **recall,
        },
    }
    path = folder / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "recall", "curate": section}, sort_keys=False))
    return Road.load(path, runs=folder / "runs")


def kept_ids(folder: Path) -> set[str]:
    return {row["id"] for row in read_rows(folder / "web.jsonl")}


@pytest.fixture(scope="module")
def done(web: Web, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(make_road(tmp_path_factory.mktemp("recall"), web)).folder


def test_mathematics_is_found_and_recall_grows_by_rounds(web: Web, done: Path) -> None:
    rows = read_rows(done / "web.jsonl")
    first = {row["id"] for row in rows if row["meta"]["recall"]["round"] == 1}
    found = {row["id"] for row in rows}
    recall = [len(ids & web.all_math) / len(web.all_math) for ids in (first, found)]
    precision = len(found & web.all_math) / len(found)
    by_corpus = {name: len(found & ids) / len(ids) for name, ids in web.math.items()}
    print("recall", recall, "precision", precision, by_corpus)
    assert recall[1] > recall[0] + 0.1, "later rounds find what the first one did not"
    assert recall[1] >= 0.95
    assert precision >= 0.97
    assert min(by_corpus.values()) >= 0.8, "also what the seed has nothing of"


def test_rounds_are_counted_and_end_by_overlap(done: Path) -> None:
    stats = json.loads((done / "stats.json").read_text())
    told = stats["recall"]["rounds"]
    print(json.dumps(told, indent=1))
    assert [row["round"] for row in told] == list(range(1, len(told) + 1))
    assert told[0]["overlap"] == 0
    assert all(row["overlap"] < 0.98 for row in told[:-1])
    assert len(told) == 4 or told[-1]["overlap"] >= 0.98
    assert stats["recall"]["collected"] == stats["sources"]["web"]["kept"] == told[-1]["collected"]
    assert min(told[-1]["held out and told apart"].values()) >= 0.9
    domains = read_rows(done / "recall" / "round_1" / "domains.jsonl")
    assert {row["domain"] for row in domains} == {"quiz.example", "forum.example"} | (
        {row["domain"] for row in domains} & {"stacks.example"}
    ), "no host of WikiText counts"


def test_every_page_left_out_keeps_its_reason_and_score(web: Web, done: Path) -> None:
    drops = read_rows(done / "drops" / "web.jsonl")
    assert {row["reason"] for row in drops} == {"not recalled"}
    assert kept_ids(done) | {row["id"] for row in drops} == {row["id"] for row in web.pool}
    assert all(0 <= row["score"] <= 1 and row["text"] for row in drops)
    assert [row["id"] for row in read_rows(done / "books.jsonl")] == ["b0"], "not in the pool"


@pytest.mark.parametrize("fault", ["drawn from the pool", "general"])
def test_a_wrong_seed_finds_no_mathematics(
    web: Web, shared_data: Path, tmp_path: Path, fault: str
) -> None:
    """Labels that say nothing, or the contrary: 0.23 of the pool is mathematics."""
    texts = [row["text"] for row in random.Random(1).sample(web.pool, 200)]
    if fault == "general":
        texts = wikitext(shared_data, "test")[-200:]
    wrong = [{"id": f"g{n}", "text": text} for n, text in enumerate(texts)]
    folder = run(make_road(tmp_path, web, wrong, rounds=1)).folder
    found = kept_ids(folder)
    precision = len(found & web.all_math) / len(found)
    print(fault, precision)
    assert precision < 0.45, "the right seed has 0.97 and more"


def test_equal_bytes_again_and_after_a_kill(
    web: Web, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = make_road(tmp_path, web)
    score, scored = rounds._score, []

    def dies_at_the_fourth(classifier: Path, pool: Path, path: Path) -> None:
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(path)
        score(classifier, pool, path)

    monkeypatch.setattr(rounds, "_score", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(road)
    monkeypatch.setattr(rounds, "_score", lambda *a: (scored.append(a[2]), score(*a)))
    folder = run(road).folder
    assert len(set(scored)) == len(scored), "nothing is scored twice"
    for name in ("web.jsonl", "drops/web.jsonl", "recall/round_2/classifier.npy"):
        assert (folder / name).read_bytes() == (done / name).read_bytes(), name


def test_processes_that_wait_score_what_nobody_has_claimed(done: Path, tmp_path: Path) -> None:
    def npz() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in here.glob("scores_*.npz")}

    files = [Path(name) for name in sorted(glob.glob(str(done.parents[2] / "web*.jsonl")))]
    here = Path(shutil.copytree(done / "recall" / "round_2", tmp_path / "round_2"))
    whole = npz()
    assert len(whole) == len(files) == 2
    for name in whole:
        (here / name).unlink()
    first = min(whole)
    with open(here / first.replace(".npz", ".claim"), "w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        rounds.help_to_score(files, here, rounds.read_key(here), 1)
        assert npz() == {name: content for name, content in whole.items() if name != first}
        scoring = threading.Thread(
            target=rounds.score_files, args=(here / "classifier.npy", files, here, 1)
        )
        scoring.start()
        scoring.join(2.5)
        assert scoring.is_alive(), "it waits for the other one"
    scoring.join(60)  # the other one is gone, with its lock
    assert npz() == whole


def test_nobody_helps_with_a_pool_that_is_not_his(web: Web, done: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(done / "recall", tmp_path / "recall"))
    left = folder / "round_2"
    for path in [left / "collected.npy", *left.glob("scores_*.npz")]:
        path.unlink()
    other = replace(web, pool=web.pool[:-1])
    for pool, helped in ((other, 0), (web, 2)):
        order = read_order(make_road(tmp_path / f"helps_{helped}", pool))
        assert order.config.recall is not None
        recall_run._help(order, order.config.recall, folder)
        assert len(list(left.glob("scores_*.npz"))) == helped


def test_a_change_makes_only_the_rounds_that_it_concerns(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_road(tmp_path, web, rounds=2))
    made = []
    make = rounds._learn
    monkeypatch.setattr(rounds, "_learn", lambda n, *rest: (made.append(n), make(n, *rest))[1])
    run(make_road(tmp_path, web, rounds=2, left_out="scores"))
    assert made == [], "what drops keep is no matter of the rounds"
    paths = tmp_path / "paths.jsonl"
    paths.write_text('{"domain": "forum.example", "path": "/questions"}\n')
    folder = run(make_road(tmp_path, web, rounds=2, domains={"paths": str(paths)})).folder
    assert made == [2], "people read round 1's domains; the file is of use from round 2 on"
    assert len(json.loads((folder / "stats.json").read_text())["recall"]["rounds"]) == 2


def test_scores_alone_may_be_kept_of_what_is_left_out(web: Web, tmp_path: Path) -> None:
    folder = run(make_road(tmp_path, web, rounds=1, left_out="scores")).folder
    drop = read_rows(folder / "drops" / "web.jsonl")[0]
    assert drop["text"] is None
    assert set(drop) == {"id", "source", "text", "meta", "reason", "score"}
    assert set(drop["meta"]) == {"url"}


def test_workers_change_no_byte(web: Web, done: Path, tmp_path: Path) -> None:
    folder = run(make_road(tmp_path, web, rounds=1, workers=2)).folder
    for name in ("collected.npy", "scores_*_00001.npz"):
        made, alone = (next(of.glob(f"recall/round_1/{name}")) for of in (folder, done))
        assert made.read_bytes() == alone.read_bytes()


def test_a_budget_of_words(web: Web, tmp_path: Path) -> None:
    folder = run(make_road(tmp_path, web, rounds=1, take=None, words=20_000)).folder
    rows = read_rows(folder / "web.jsonl")
    words = sum(len(row["text"].split()) for row in rows)
    assert 8_000 < words < 20_000, "signs of mathematics are words of their own"


def test_random_pages_of_the_pool_or_a_general_corpus(
    web: Web, shared_data: Path, tmp_path: Path
) -> None:
    general = wikitext(shared_data, "test")[-300:]
    path = write_rows(tmp_path / "general.jsonl", [{"id": str(n), "text": t}
                                                  for n, t in enumerate(general)])  # fmt: skip
    folder = run(make_road(tmp_path, web, rounds=1, general={"path": str(path)})).folder
    told = json.loads((folder / "stats.json").read_text())["recall"]["rounds"][0]
    assert told["learned from"] == {"seed": 150, "general": 300, "joined": 0}


def pages_at(folder: Path, addresses: list[str | None]) -> Path:
    rows = [
        {"id": str(n), "text": "x", **({"meta": {"url": a}} if a else {})}
        for n, a in enumerate(addresses)
    ]
    return write_rows(folder / "pages.jsonl", rows)


def test_the_domain_rule(tmp_path: Path) -> None:
    """12 pages of a.org, of which 2 were collected, both under /math; b.org has exactly 10 %."""
    addresses: list[str | None] = [f"https://a.org/math/{n}" for n in range(6)]
    addresses += [f"http://www.A.org:80/news/{n}?x=1" for n in range(6)]
    addresses += [f"https://b.org/math/{n}" for n in range(10)]
    addresses += [f"https://small.org/math/{n}" for n in range(3)] + [None, None]
    pool = pages_at(tmp_path, addresses)
    known = survey([pool], [pool], [], tmp_path / "survey")
    assert (known.domain_names, known.num_seed) == (["a.org", "b.org", "small.org"], 27)
    collected = np.zeros(27, bool)
    collected[[0, 1, 12, 22, 23, 26]] = True
    growth = grow(known, collected, DomainRuleConfig(), None)
    assert growth.domains == [{"domain": "a.org", "pages": 12, "collected": 2, "joined": 4}]
    assert np.flatnonzero(growth.joins_N).tolist() == [2, 3, 4, 5], "of the same path, uncollected"
    few = DomainRuleConfig(pages=3)
    assert {row["domain"] for row in grow(known, collected, few, None).domains} == {
        "a.org", "small.org"
    }  # fmt: skip
    said = tmp_path / "paths.jsonl"
    said.write_text('{"domain": "www.a.org", "path": "/news/"}\n{"domain": "b.org", "path": "/"}\n')
    named = on_paths([pool], read_paths(said))
    assert np.flatnonzero(named).tolist() == list(range(6, 22)), "b.org wholly, a.org's news"
    growth = grow(known, collected, DomainRuleConfig(), named)
    assert np.flatnonzero(growth.joins_N).tolist() == [6, 7, 8, 9, 10, 11], "b.org does not count"


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"domain": "a.org"}', "'domain' and 'path'"), ('{"domain": "a.org", "path": "x"}', "'/'")],
)
def test_a_bad_line_of_paths_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "paths.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=f"line 1.*{said}"):
        read_paths(path)


def test_what_cannot_be_done_is_said(web: Web, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recall.pool names wbe"):
        run(make_road(tmp_path, web, pool=["wbe"]))
    with pytest.raises(UserError, match="one of 'take'"):
        run(make_road(tmp_path, web, words=5))
    with pytest.raises(UserError, match="3 seed texts"):
        run(make_road(tmp_path, web, web.seed[:3]))
