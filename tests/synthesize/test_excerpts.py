"""How every kind of source is cut, which item gets which prompt, and that calls equal the plan."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from fault_server import FaultServer
from method_roads import Written, check_counts, load

from megatron_math.base.errors import UserError
from megatron_math.base.shard import Shard
from megatron_math.synthesize import run as room
from megatron_math.synthesize.cutting import KINDS, cut_texts, fenced
from megatron_math.synthesize.excerpt_config import STAGES

LONG = "word " * 300
TEX = (
    "\\documentclass{article}\n\\section{Not yet}\n\\begin{document}\nAbstract.\n% \\section{no}\n"
    "\\section{One} first \\% \\subsection*{Two}second\\\\%\\section{no}\n"
    "\\section[s]{Three}\nthird"
)
BOOK = "Preface\n# Top\n## One\nfirst\n```\n## no head\n```\n### deep\n##no\n## Two\n" + LONG
GOLDEN = {
    "web": ({"text": "  " + LONG}, [LONG[:1000].rstrip()]),
    "wiki": ({"text": "short"}, ["short"]),
    "proof": ({"text": "\n\n"}, []),
    "qa": (
        {"question": " Why? ", "answer": LONG},
        ["Why?\n\n" + LONG[:1000].rstrip()],
    ),
    "arxiv": (
        {"text": TEX},
        [
            "Abstract.\n% \\section{no}",
            "\\section{One} first \\%",
            "\\subsection*{Two}second\\\\%\\section{no}",
            "\\section[s]{Three}\nthird",
        ],
    ),
    "book": (
        {"text": BOOK},
        [
            "```\nPreface\n# Top\n```",
            "````\n## One\nfirst\n```\n## no head\n```\n### deep\n##no\n````",
            f"```\n## Two\n{LONG[:993].rstrip()}\n```",
        ],
    ),
    "tool": (
        {"text": "A first sentence. A second {one} and more" + " x" * 1000},
        ["A first sentence. A second {one}"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_golden_excerpts(kind):
    parts, expected = GOLDEN[kind]
    cuts = list(cut_texts(kind, parts, 2000 if kind == "tool" else 1000))
    assert [cut.text for cut in cuts] == expected
    for cut in cuts:  # the spans say where it stands
        shown = "\n\n".join(parts[key][begin:end] for key, begin, end in cut.spans)
        assert cut.text == (fenced(shown) if kind == "book" else shown)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "", " \n\t ", "x", "\ud800 half \udfff", "\\section{", "\\section" + " " * 10**6,
        "`" * 5000,
        "## \n" * 5000, "\\section{a}" * 20000, "%" * 10**6, "\u2028## no line\r## a\r\n## b",
        "z" * 10**7, "\0{{ excerpt }}{% raw %}", "```\n## open fence",
    ],
    ids=range(14),
)  # fmt: skip
def test_hostile_texts(kind, text):
    parts = {"question": text, "answer": text} if kind == "qa" else {"text": text}
    began = time.monotonic()
    for cut in cut_texts(kind, parts, 1000):
        cut.text.encode("utf-8")
        assert all(0 <= begin < end <= len(text) for _, begin, end in cut.spans)
        assert all(end - begin <= 1000 for _, begin, end in cut.spans)
        assert cut.text.strip()
    assert time.monotonic() - began < 5


def test_tool_excerpts_end_at_a_sentence_only_where_they_were_cut():
    assert [c.text for c in cut_texts("tool", {"text": "No stop here"}, 2000)] == ["No stop here"]
    assert [c.text for c in cut_texts("tool", {"text": "x" * 3000}, 2000)] == ["x" * 2000]
    assert [c.text for c in cut_texts("tool", {"text": "a\nb" * 1000}, 4)] == ["a"]


NOT_ALONE = "the problem does not stand alone"
SOURCES = {"web": 12, "arxiv": 4, "book": 3, "qa": 5, "wiki": 2, "proof": 1}
PLAN = 12 + 4 * 2 + 3 * 2 + 5 + 2 * 8 + 8  # two sections each, eight prompts each


def write_sources(folder):
    """Files of every kind. Returns the section `sources`."""
    sources = {}
    for kind, count in SOURCES.items():
        rows = []
        for number in range(count):
            text = f"{kind} text {number} counts {number + 3} apples and as many pears in a basket"
            parts = {"text": text}
            if kind == "qa":
                parts = {"question": text, "answer": f"{text}, {number}"}
            elif kind == "arxiv":
                parts = {"text": f"\\section{{A}} {text}\n\\section{{B}} {text}"}
            elif kind == "book":
                parts = {"text": f"## A\n{text}\n## B\n{text}"}
            rows.append({"id": f"{kind}-{number}", **parts})
        path = folder / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources[kind] = {"path": str(path), "kind": kind}
    return sources


def rows_of(source):
    return [json.loads(line) for line in Path(source["path"]).read_text().splitlines()]


def reply(prompt, seed, sample):
    number = sum(map(ord, prompt)) * 7919 + len(prompt)
    return f"Problem: What is {number} + 2?\nSolution: {number} + 2 = {number + 2}\nThe answer is "\
        f"\\boxed{{{number + 2}}}."  # fmt: skip


def write_road(folder, url, sources, name="road", **more):
    server = {"url": url, "model": "engine", "first_wait_s": 0.01, "concurrency": 8}
    engine = {"server": server, "max_new_tokens": 1000}
    section = {"method": "excerpts", "sources": sources, "engine": engine} | more
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "seed": 7, "synthesize": section}))
    return path


def run(folder, url, sources, name="road", **more):
    return Written(room.run(load(write_road(folder, url, sources, name, **more))).folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    """(what a run on all items wrote, the calls that it made)."""
    with FaultServer(reply=reply) as server:
        return run(tmp_path_factory.mktemp("whole"), server.url, sources), list(server.calls)


def test_calls_equal_the_plan_and_every_record_knows_its_text(whole, sources):
    written, calls = whole
    assert len(calls) == PLAN == written.stats["seeds"]
    check_counts(written, PLAN)
    assert len(written.records) == PLAN - written.stats["duplicates"]
    prompts = {call.prompt for call in calls}
    for record in written.records:
        about = record.meta["excerpt"]
        [row] = [
            row for row in rows_of(sources[about["source"]]) if row["id"] == about["id"]
        ]  # fmt: skip
        shown = "\n\n".join(row[key][begin:end] for key, begin, end in about["spans"])
        assert any(shown in prompt for prompt in prompts)
        assert record.meta["seed_id"].startswith(f"{about['source']}/{about['id']}#")
        assert len(record.meta["prompt_sha256"]) == len(record.meta["request_sha256"]) == 64
    by_stage = Counter(record.meta["stage"] for record in written.records)
    assert set(by_stage) == set(STAGES)


def test_the_distilled_pairs_are_what_was_asked_and_answered(whole):
    written, calls = whole
    pairs = written.rows("distilled.jsonl")
    assert [pair["meta"]["record"] for pair in pairs] == [record.id for record in written.records]
    asked = {call.prompt for call in calls}
    for pair in pairs:
        assert pair["problem"] in asked
        assert pair["problem"].endswith("step by step\n")
        assert pair["solution"] == reply(pair["problem"], None, 0)


def test_a_limit_draws_the_same_items_in_any_order(whole, sources, tmp_path):
    rng = random.Random(1)
    turned = {}
    for name in rng.sample(sorted(sources), len(sources)):
        lines = Path(sources[name]["path"]).read_text().splitlines()
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(rng.sample(lines, len(lines))) + "\n")
        turned[name] = sources[name] | {"path": str(path)}
    stages = {record.meta["seed_id"]: record.meta["stage"] for record in whole[0].records}
    found = []
    with FaultServer(reply=reply) as server:
        for name, given in (("a", sources), ("b", turned)):
            given = given | {"wiki": given["wiki"] | {"limit": 3}}
            written = run(tmp_path, server.url, given, name, limit=20)
            assert written.stats["seeds"] == 20
            assert written.stats["passed_over"]["not drawn"] == PLAN - 20
            found.append({r.meta["seed_id"]: (r.meta["stage"], r.problem) for r in written.records})
        assert len(server.calls) == 40
    assert found[0] == found[1]
    for item, (stage, _) in found[0].items():
        assert stages.get(item, stage) == stage


def test_shards_write_the_bytes_of_one_run(sources, tmp_path):
    with FaultServer(reply=reply) as server:
        one = run(tmp_path, server.url, sources, "one", limit=17)
        road = load(write_road(tmp_path, server.url, sources, "three", limit=17))
        for index in range(3):
            room.run_shard(road, Shard(index, 3))
        merged = Written(room.run_merge(road).folder)
        assert len(server.calls) == 34
    assert merged.texts() == one.texts()
    assert merged.rows("distilled.jsonl") == one.rows("distilled.jsonl")


def test_only_asks_again_about_chosen_items_and_without_about_none_of_them(
    whole, sources, tmp_path
):
    chosen = whole[0].records[3::5]
    path = tmp_path / "chosen.jsonl"
    path.write_text("".join(json.dumps(record.to_json()) + "\n" for record in chosen))
    with FaultServer(reply=reply) as server:
        again = run(tmp_path, server.url, sources, "again", only={"path": str(path)})
        assert len(server.calls) == len(chosen)
        asked = {(r.meta["seed_id"], r.meta["stage"]) for r in again.records}
        assert asked == {(r.meta["seed_id"], r.meta["stage"]) for r in chosen}
        rest = run(tmp_path, server.url, sources, "rest", without=[{"path": str(path)}])
        places = {record.meta["seed_id"].partition("@")[0] for record in chosen}
        assert not places & {r.meta["seed_id"].partition("@")[0] for r in rest.records}
        assert rest.stats["seeds"] + rest.stats["passed_over"]["asked about before"] == PLAN
    few = {name: source for name, source in sources.items() if name != "web"}
    with pytest.raises(UserError, match="are not in the sources, such as web/"):
        run(tmp_path, "http://127.0.0.1:1/v1", few, "lost", only={"path": str(path)})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I cannot do that.", "text before the first tag"),
        ("", "no 'Problem:'"),
        ("Problem: 1 + 1?", "no 'Solution:'"),
        ("Solution: 2\nProblem: 1 + 1?", "tags out of order"),
        ("Problem: 1 + 1?\nSolution: it is easy", "no final answer"),
        ("Problem: What does the excerpt say?\nSolution: \\boxed{2}", NOT_ALONE),
        ("Problem: See the figure below.\nSolution: \\boxed{2}", NOT_ALONE),
        ("Problem: 1 + 1?\nSolution: 1 + 1 = 3, so \\boxed{3}", "not accepted: symbolic"),
    ],
)  # fmt: skip
def test_replies_that_make_no_record(text, reason, sources, tmp_path):
    with FaultServer(reply=lambda prompt, seed, sample: text) as server:
        written = run(tmp_path, server.url, {"web": sources["web"]}, limit=2)
    assert written.stats["rejects"] == {reason: 2}
    assert not written.rows("distilled.jsonl")
    for drop in written.drops:
        assert drop["meta"]["excerpt"]["source"] == "web"
        assert drop.get("raw", "") == text


@pytest.mark.parametrize(
    ("sources", "more", "message"),
    [
        ({"a": {"path": "x", "kind": "blog"}}, {}, "kind"),
        ({"a": {"path": "x", "kind": "web", "answer": "b"}}, {}, "it is for qa"),
        ({"a": {"path": "x", "kind": "tool"}}, {}, "needs 'examples'"),
        ({"a": {"path": "x", "kind": "web"}}, {"sandbox": {}}, "have no effect without a source"),
        ({"a": {"path": "x", "kind": "web"}}, {"stages": ["aime", "aime"]}, "names one twice"),
        ({"a": {"path": "x", "kind": "web"}}, {"audit": 3}, "audit has no effect"),
        ({"a": {"path": "x", "kind": "web"}}, {}, r"no file at x \(source a.path\)"),
        ({"a": {"path": "bad.jsonl", "kind": "web"}}, {}, "no text under text, content"),
        ({"a": {"path": "bad.jsonl", "kind": "web", "text": "n"}}, {}, "'n' must be a text"),
        ({"a": {"path": "dup.jsonl", "kind": "web"}}, {"limit": 5}, "comes twice"),
        ({"a": {"path": "empty.jsonl", "kind": "web"}}, {}, "no excerpt is left"),
        ({"a": {"path": "dup.jsonl", "kind": "web"}}, {"only": {"path": "dup.jsonl"}},
         "no record of the method excerpts"),
    ],
)  # fmt: skip
def test_bad_configurations_say_what_to_do(sources, more, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"id": 1, "text": "a text that is long enough to be an excerpt of it"}
    (tmp_path / "bad.jsonl").write_text('{"n": 3}\n')
    (tmp_path / "dup.jsonl").write_text(2 * (json.dumps(row) + "\n"))
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(UserError, match=message):
        run(tmp_path, "http://127.0.0.1:1/v1", sources, **more)
