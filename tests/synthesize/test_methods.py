"""The methods against teachers behind a real HTTP server, on a domain whose errors are known."""

import json
import threading

import pytest
import toy_arithmetic as toy
from fault_server import FaultServer
from method_roads import ENGINES, Written, check_counts, load, write_road

from megatron_math.base.errors import StoppedOnRequest, UserError
from megatron_math.base.shard import Shard
from megatron_math.base.stage import WouldRun, announcing
from megatron_math.cli import main
from megatron_math.synthesize import run as room
from megatron_math.synthesize.steps import BACK, delete_back
from megatron_math.synthesize.work import draw_seed

COUNT = 200
FORM = {"no 'Check:'", "text before the first tag"}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    path = tmp_path_factory.mktemp("seeds") / "seeds.jsonl"
    return path, {row["id"]: row for row in toy.write_seeds(path, COUNT)}


@pytest.fixture(scope="module")
def server():
    with FaultServer(reply=toy.reply) as server:
        yield server


@pytest.fixture(scope="module")
def made(server, seeds, tmp_path_factory):
    """method -> what its one command wrote, and the calls that this took."""
    found = {}

    def make(method):
        if method not in found:
            road = write_road(tmp_path_factory.mktemp(method), method, seeds[0], server.url)
            before = len(server.calls)
            assert main(["synthesize", str(road), "--runs", str(road.parent / "runs")]) == 0
            written = Written(load(road).folder(room.STAGE))
            found[method] = written, server.calls[before:], road
        return found[method]

    return make


@pytest.mark.parametrize("method", ENGINES)
def test_counts_equal_files_and_calls_equal_the_plan(method, made):
    written, calls, _ = made(method)
    check_counts(written, COUNT)
    assert len(written.records) >= 50
    asked = sum(cost["requests"] for cost in written.stats["cost"].values())
    assert len(calls) == asked == sum(cost["calls"] for cost in written.stats["cost"].values())
    if method != "tutorship":
        assert asked == COUNT, "one request a seed"


@pytest.mark.parametrize("method", ENGINES)
def test_a_second_command_does_nothing(method, made, server):
    written, _, road = made(method)
    before = len(server.calls), written.texts()
    stage = room.run(load(road))
    assert stage.was_done
    with announcing():
        assert room.run(load(road)).was_done
    assert (len(server.calls), Written(stage.folder).texts()) == before


def test_expansions_verify(made, seeds):
    """Wrong ones are known by the symbolic check, refused ones by the self-check."""
    written, _, _ = made("expansion")
    planted = {"accepted": 0, "symbolic": 0, "self_check": 0}
    for row in seeds[1].values():
        prompt_broke = any(
            drop["seed_id"] == row["id"] and drop["reason"] == "text before the first tag"
            for drop in written.drops
            if "seed_id" in drop
        )
        for _, wrong, refused in [] if prompt_broke else toy.new_pairs(row["problem"]):
            planted["symbolic"] += wrong
            planted["self_check"] += refused
            planted["accepted"] += not wrong and not refused
    assert len(written.records) + written.stats["duplicates"] == planted["accepted"]
    for name in ("symbolic", "self_check"):
        assert written.stats["verdicts"][name]["false"] == planted[name]
    assert planted["symbolic"] > 20
    for record in written.records:
        right = toy.solve(*toy.read(record.problem))[1]
        assert record.answer == right
        assert record.meta["statement"]
        assert record.meta["steps"] == 5
    assert written.stats["verdicts"]["substitution"] == {"null": written.stats["parsed"]}


def test_diversification_keeps_right_and_different_solutions(made, seeds):
    written, _, _ = made("diversification")
    wrong = sum(sum(toy.wrong_solutions(row["problem"])) for row in seeds[1].values())
    seen = written.stats["verdicts"]["reference"]
    refused = [d for d in written.drops if d["reason"] == "refused by the model"]
    assert 0 < len(refused) < 25
    assert all(drop["detail"] == "there is one way only." for drop in refused)
    assert 0.8 * wrong <= seen["false"] <= wrong
    for record in written.records:
        seed = seeds[1][record.meta["seed_id"]]
        assert (record.problem, record.answer) == (seed["problem"], seed["answer"])
        assert record.solution != seed["solution"]


def test_retrospective_traces_delete_back_to_the_solution(made, seeds, tmp_path):
    road = write_road(tmp_path, "retrospective", seeds[0], None, slips=2)
    free = Written(room.run(load(road)).folder)
    check_counts(free, COUNT)
    assert len(free.records) == COUNT, "pure text work"
    for record in free.records + made("retrospective")[0].records:
        assert delete_back(record.solution) == seeds[1][record.meta["seed_id"]]["solution"]
        assert record.solution.count(BACK) == len(record.meta["slips"])
        assert record.meta["steps"] == 4
    assert {len(record.meta["slips"]) for record in free.records} == {2}
    assert "model" not in free.records[0].meta


def test_tutorship_finds_the_planted_step(made, seeds):
    """The known error rates of student and teacher are counted again from the texts alone."""
    written, _, _ = made("tutorship")
    rows = {row["problem"]: row for row in seeds[1].values()}
    planted, found, blind = 0, 0, 0
    for row in rows.values():
        seed = draw_seed(7, row["id"], "attempt")
        step = toy.planted_step(row["problem"], seed, 0)
        planted += step is not None
    fixed = [record for record in written.records if record.meta["check"] == "wrong"]
    for record in fixed:
        seed = draw_seed(7, record.meta["seed_id"], "attempt")
        found += record.meta["step"] == toy.planted_step(record.problem, seed, 0)
        assert record.answer == rows[record.problem]["answer"]
        attempt, _, rest = record.solution.partition("\n\nCheck: wrong\nStep ")
        assert attempt == toy.reply(f"Solve the following problem\n{record.problem}", seed, 0)
        assert "\nError: the computation is off.\nCorrection:\n" in rest
        assert record.meta["attempt_right"] is False
    broken = [d for d in written.drops if d["reason"] in FORM or d["reason"].startswith("does not")]
    blind = [
        d for d in written.drops if d["reason"] == "not accepted: judgement, reference, symbolic"
    ]
    broken_wrong = [drop for drop in broken if drop["meta"]["attempt_right"] is False]
    assert len(fixed) + len(broken_wrong) + len(blind) == planted
    assert found == len(fixed) >= 0.99 * (planted - len(broken_wrong) - len(blind))
    assert 0.35 * COUNT < planted < 0.65 * COUNT
    agreed = [record for record in written.records if record.meta["check"] == "correct"]
    left_out = written.stats["rejects"]["right attempt outside the share"]
    assert 0.15 < len(agreed) / (len(agreed) + left_out) < 0.45
    assert all("\n\nCheck: correct\n" in record.solution for record in agreed)
    assert {row["id"] for row in written.disputed} >= {drop["id"] for drop in blind}


def test_rejection_sampling_keeps_right_ones_only(made, seeds):
    written, _, _ = made("rejection")
    assert len({record.meta["seed_id"] for record in written.records}) == len(written.records)
    solved = 0
    for row in seeds[1].values():
        seed = draw_seed(7, row["id"], "samples")
        right = sum(toy.planted_step(row["problem"], seed, sample) is None for sample in range(4))
        solved += right > 0
        kept = [r for r in written.records if r.meta["seed_id"] == row["id"]]
        assert [record.meta["right_of"] for record in kept] == [[right, 4]] * bool(right)
        assert all(record.answer == row["answer"] for record in kept)
    assert len(written.records) == solved
    assert (
        written.stats["rejects"]["duplicate"] + written.stats["accepted"]
        == (written.stats["verified"])
    )


def test_rejection_without_references_takes_the_majority(server, seeds, tmp_path):
    rows = [json.loads(line) for line in seeds[0].read_text().splitlines()]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"question": row["problem"]}) + "\n" for row in rows))
    road = write_road(tmp_path, "rejection", bare, server.url, samples=5, vote=0.6)
    written = Written(room.run(load(road)).folder)
    check_counts(written, COUNT)
    assert written.records[0].meta["seed_id"].startswith("bare.jsonl:")
    right = sum(r.answer == toy.solve(*toy.read(r.problem))[1] for r in written.records)
    assert right >= 0.9 * len(written.records) > 0.2 * COUNT


def test_models_check_too(server, seeds, tmp_path):
    """Agreement of further solutions and a teacher; what cannot be accepted is not asked about."""
    road = write_road(
        tmp_path, "expansion", seeds[0], server.url,
        seeds={"path": str(seeds[0]), "limit": 60},
        agreement={"solutions": 5, "least": 3},
        teacher={"server": {"url": server.url, "model": "teacher"}},
        accept={"all": ["self_check"], "any": ["agreement", "teacher"]},
    )  # fmt: skip
    written = Written(room.run(load(road)).folder)
    stats = written.stats
    check_counts(written, 60)
    refused = stats["verdicts"]["self_check"]["false"]
    assert refused > 0
    assert stats["cost"]["teacher"]["requests"] == stats["parsed"] - refused
    assert stats["cost"]["engine"]["requests"] == 60 + stats["parsed"] - refused
    assert stats["verdicts"]["teacher"]["false"] > 0
    for record in written.records:
        if record.meta["verdicts"]["teacher"] is False:
            assert record.meta["agreeing"] >= 3
    assert stats["disputed"] > 0


def test_an_audit_measures_the_checks(server, seeds, tmp_path):
    road = write_road(tmp_path, "expansion", seeds[0], server.url, audit=150)
    whole = Written(room.run(load(road)).folder)
    audit = whole.stats["audit"]
    assert audit["intact"] == {"checked": 150, "refused": 0, "false": {}}
    assert audit["false_rejection_rate"] == 0
    assert audit["result"]["checked"] == audit["answer"]["checked"] == 150
    assert audit["result"]["refused"] == 150, "every false statement is seen"
    assert audit["answer"]["refused"] == 0, "nothing knows the answer of a new problem"
    assert audit["rejection_rate"] == 0.5
    road = write_road(
        tmp_path, "expansion", seeds[0], server.url, "shared", audit=150,
        teacher={"server": {"url": server.url, "model": "teacher"}},
    )  # fmt: skip
    for index in range(3):
        part = Written(room.run_shard(load(road), Shard(index, 3)).folder)
        assert ("audit" in part.stats) == (index == 0)
    calls = len(server.calls)
    merged = Written(room.run_merge(load(road)).folder)
    assert len(server.calls) == calls
    assert merged.stats["audit"]["result"]["refused"] == 150
    assert merged.stats["audit"]["answer"]["false"].get("teacher") is None
    road = write_road(tmp_path, "diversification", seeds[0], server.url, "other", audit=150)
    audit = Written(room.run(load(road)).folder).stats["audit"]
    assert audit["rejection_rate"] == 1
    assert audit["false_rejection_rate"] == 0


def test_shards_make_the_same_files(server, made, tmp_path, seeds):
    written, _, _ = made("tutorship")
    road = write_road(tmp_path, "tutorship", seeds[0], server.url)
    command = ["synthesize", str(road), "--runs", str(road.parent / "runs")]
    for index in range(3):
        assert main([*command, "--shard", f"{index}/3"]) == 0
    calls = len(server.calls)
    assert main([*command, "--merge"]) == 0
    assert len(server.calls) == calls, "the merge asks nothing"
    merged = Written(load(road).folder(room.STAGE))
    assert merged.texts() == written.texts()
    assert merged.stats["cost"] == written.stats["cost"]
    assert not (merged.folder / "shards").exists()
    assert room.run(load(road)).was_done


def test_a_merge_needs_all_shards(server, seeds, tmp_path):
    road = load(write_road(tmp_path, "retrospective", seeds[0], None))
    with pytest.raises(UserError, match="no shards"):
        room.run_merge(road)
    room.run_shard(road, Shard(1, 2))
    with pytest.raises(UserError, match="0000-of-0002 cannot be merged: it is not finished"):
        room.run_merge(road)


def test_a_new_rule_asks_nothing(server, seeds, tmp_path):
    road = write_road(tmp_path, "expansion", seeds[0], server.url)
    first = Written(room.run(load(road)).folder)
    calls = len(server.calls)
    write_road(tmp_path, "expansion", seeds[0], server.url, accept={"all": ["self_check"]})
    second = Written(room.run(load(road)).folder)
    assert len(server.calls) == calls
    assert len(second.records) > len(first.records)
    check_counts(second, COUNT)


def test_a_spent_budget_ends_with_75_and_a_higher_one_goes_on(server, made, seeds, tmp_path):
    road = write_road(tmp_path, "tutorship", seeds[0], server.url)
    command = ["synthesize", str(road), "--runs", str(road.parent / "runs")]
    before = len(server.calls)
    assert main([*command, "synthesize.student.budget.calls=50"]) == 75
    spent = len(server.calls) - before
    assert 50 <= spent <= 100
    assert not (load(road).folder(room.STAGE) / "problems.jsonl").exists()
    assert main(command) == 0
    written = Written(load(road).folder(room.STAGE))
    assert written.texts() == made("tutorship")[0].texts()
    asked = sum(cost["requests"] for cost in written.stats["cost"].values())
    assert len(server.calls) - before == asked, "nothing is paid twice"


@pytest.mark.parametrize("method", ENGINES)
def test_chinese_prompts_are_read_in_the_same_way(method, server, seeds, tmp_path):
    paths = {"path": str(seeds[0]), "limit": 40}
    road = write_road(tmp_path, method, seeds[0], server.url, language="zh", seeds=paths)
    before = len(server.calls)
    written = Written(room.run(load(road)).folder)
    assert "请" in server.calls[before].prompt
    check_counts(written, 40)
    assert len(written.records) >= 15
    assert {record.meta["language"] for record in written.records} == {"zh"}


def test_failures_are_rejects_with_their_reason(seeds, tmp_path):
    def faults(prompt, attempt):
        return "400" if seeds[1]["toy-3"]["problem"] in prompt else None

    with FaultServer(faults, reply=toy.reply) as server:
        road = write_road(tmp_path, "expansion", seeds[0], server.url)
        written = Written(room.run(load(road)).folder)
        [drop] = [drop for drop in written.drops if drop["reason"] == "no answer"]
        assert drop["seed_id"] == "toy-3"
        assert "fault 400" in drop["detail"]
        assert written.stats["cost"]["engine"]["answered"] == COUNT - 1


def test_a_small_window_changes_nothing(server, made, seeds, tmp_path):
    for window in (40,):
        road = write_road(tmp_path, "tutorship", seeds[0], server.url, window=window)
        assert Written(room.run(load(road)).folder).texts() == made("tutorship")[0].texts()


def test_it_runs_where_signals_cannot_be_caught(seeds, tmp_path):
    road = load(write_road(tmp_path, "retrospective", seeds[0], None))
    thread = threading.Thread(target=room.run, args=(road,))
    thread.start()
    thread.join(60)
    assert room.run(road).was_done


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("expansio", {}, "did you mean 'expansion'"),
        ("expansion", {"engine": {}}, "give one of 'server', 'hf', 'megatron' and 'vllm'"),
        ("expansion", {"engin": {}}, "did you mean 'engine'"),
        ("expansion", {"accept": {"all": ["truth"]}}, "synthesize.accept.all.0"),
        (
            "rejection",
            {"engine": {"server": {"url": "http://x/v1", "model": "m"}}},
            "temperature 0",
        ),
        ("expansion", {"agreement": {"solutions": 2, "least": 3}}, "cannot agree"),
        ("tutorship", {"student": None}, "give one of 'student' and 'seeds.attempts'"),
        ("retrospective", {"slips": 2}, "leave slips out"),
        ("expansion", {"seeds": {"path": "nowhere.jsonl"}}, "no file at nowhere.jsonl"),
        ("expansion", {"seeds": {}}, "give either 'path'"),
        ("expansion", {"seeds": {"path": "BAD"}}, "bad.jsonl, line 3: no problem under"),
        ("expansion", {"prompts": "nowhere"}, "does not exist"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_asked(
    method, more, message, seeds, server, tmp_path
):
    known = method if method in ENGINES else "expansion"
    if more.get("seeds") == {"path": "BAD"}:
        rows = [*seeds[0].read_text().splitlines()[:2], '{"text": "no problem here"}']
        (tmp_path / "bad.jsonl").write_text("\n".join(rows))
        more = {"seeds": {"path": str(tmp_path / "bad.jsonl")}}
    path = write_road(tmp_path, known, seeds[0], server.url, **{"method": method} | more)
    calls = len(server.calls)
    with pytest.raises(UserError, match=message):
        room.run(load(path))
    assert len(server.calls) == calls
    assert not (load(path).folder(room.STAGE) / "answers").exists()


def test_a_dry_run_says_what_would_be_done(server, seeds, tmp_path):
    road = load(write_road(tmp_path, "expansion", seeds[0], server.url))
    with announcing(), pytest.raises(WouldRun, match="not run yet"):
        room.run(road)
    assert not road.folder(room.STAGE).exists()


def test_a_stop_in_the_middle_keeps_what_was_answered(server, made, seeds, tmp_path, monkeypatch):
    from contextlib import contextmanager

    from megatron_math.synthesize import by_method

    asked = 0

    def stopping():
        nonlocal asked
        asked += 1
        return asked > 150

    @contextmanager
    def signals(_):
        yield stopping

    road = load(write_road(tmp_path, "tutorship", seeds[0], server.url))
    before = len(server.calls)
    with monkeypatch.context() as patch:
        patch.setattr(by_method, "remember_stops", signals)
        with pytest.raises(StoppedOnRequest):
            room.run(road)
    assert 0 < len(server.calls) - before < COUNT
    written = Written(room.run(road).folder)
    assert written.texts() == made("tutorship")[0].texts()
    asked_in_all = sum(cost["requests"] for cost in written.stats["cost"].values())
    assert len(server.calls) - before == asked_in_all
