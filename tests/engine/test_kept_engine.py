"""Kept answers: asked once, in order, within the budget, and there after any end."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, answer_text

from megatron_math.base.config import parse_section
from megatron_math.base.errors import StoppedOnRequest, UserError
from megatron_math.engine.answer_file import AnswerFile
from megatron_math.engine.config import BudgetConfig, EngineConfig
from megatron_math.engine.interface import Answer, Engine, Generation, Message, Request
from megatron_math.engine.kept import KeptEngine, key_of
from megatron_math.engine.open import open_engine
from megatron_math.engine.scripted import ScriptedEngine

WHO = {"scripted": 1}


def requests_for(count: int) -> list[Request]:
    return [Request(f"p{i}", 8) for i in range(count)]


def kept(folder: Path, script: Any = str.upper, **keys: Any) -> KeptEngine:
    return KeptEngine(ScriptedEngine(script), folder, who=keys.pop("who", WHO), **keys)


def asked(engine: KeptEngine) -> list[str]:
    assert isinstance(engine.engine, ScriptedEngine)
    return engine.engine.asked


def texts(answers: Any) -> list[str]:
    return [answer.generations[0].text for _, answer in answers]


def server_config(server: FaultServer, **budget: Any) -> EngineConfig:
    raw = {"url": server.url, "model": "m", "first_wait_s": 0.01, "concurrency": 8, "silence_s": 2}
    return parse_section(EngineConfig, {"server": raw, "budget": budget}, "engine")


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    with kept(tmp_path) as engine:
        assert texts(engine.answers(requests_for(5))) == ["P0", "P1", "P2", "P3", "P4"]
    with kept(tmp_path) as engine:
        mixed = [*reversed(requests_for(7)), *requests_for(7)]
        assert texts(engine.answers(mixed)) == [r.texts()[0].upper() for r in mixed]
        assert asked(engine) == ["p6", "p5"]
    with kept(tmp_path, who={"scripted": 2}) as engine:  # another model
        list(engine.answers(requests_for(3)))
        assert len(asked(engine)) == 3


def test_known_answers_are_reported_like_new_ones(tmp_path: Path) -> None:
    with kept(tmp_path) as engine:
        list(engine.answers(requests_for(2)))
        reported: dict[int, Answer] = {}
        answers = dict(engine.answers(requests_for(4), reported.__setitem__))
    assert reported == answers
    assert len(answers) == 4


def test_the_key_holds_all_that_decides_and_nothing_else() -> None:
    base = Request("p", 8)
    others = [
        Request("q", 8), Request("p", 9), Request("p", 8, ("x",)), Request("p", 8, n=2),
        Request("p", 8, temperature=1), Request("p", 8, top_p=0.5), Request("p", 8, seed=0),
        Request("p", 8, logprobs=True), Request((Message("user", "p"),), 8),
    ]  # fmt: skip
    keys = {key_of(request, WHO) for request in [base, *others]} | {key_of(base, {})}
    assert len(keys) == len(others) + 2
    assert key_of(base, WHO) == key_of(Request("p", 8, (), 1, 0, 1), WHO)
    text = (
        '{"request":{"logprobs":false,"max_new_tokens":8,"n":1,"prompt":"p","seed":null,"stop":[],'
        '"temperature":0.0,"top_p":1.0},"version":1,"who":{"scripted":1}}'
    )
    assert key_of(base, WHO) == hashlib.sha256(text.encode()).hexdigest()


def test_address_and_pace_do_not_change_who_is_asked() -> None:
    def identity(**keys: Any) -> Any:
        raw = {"server": {"url": "http://a/v1", "model": "m"} | keys}
        return parse_section(EngineConfig, raw, "engine").identity()

    same = {"url": "http://b/v1", "key_env": "B_KEY", "concurrency": 2, "tries": 1, "silence_s": 3}
    assert identity(**same) == identity()
    for other in ({"model": "n"}, {"revision": "2"}, {"api": "completions"}, {"samples": "apart"},
                  {"extra": {"top_k": 1}}):  # fmt: skip
        assert identity(**other) != identity()


def test_the_section_names_its_faults() -> None:
    good = {"url": "http://a/v1", "model": "m"}
    for raw, fault in (
        ({}, "give one of 'server', 'hf', 'megatron' and 'vllm'"),
        ({"server": good, "hf": {"folder": "x"}}, "give one of"),
        ({"server": good | {"key_env": "OPENAI"}}, "must end in KEY"),
        ({"server": good | {"extra": {"seed": 1}}}, "seed is set by the request"),
        ({"server": good | {"url": "a/v1"}}, "engine.server.url"),
        ({"server": good | {"url": "http://a:port/v1"}}, "engine.server.url: Port could not"),
        ({"server": good | {"url": "http://u:p@a/v1"}}, "without user, query"),
        ({"server": good, "budget": {"money": 3}}, "price_in or price_out"),
        ({"server": good | {"concurency": 3}}, "did you mean 'concurrency'"),
    ):
        with pytest.raises(UserError, match=fault):
            parse_section(EngineConfig, raw, "engine")


def test_order_does_not_depend_on_timing_and_failures_are_asked_again(tmp_path: Path) -> None:
    def faults(prompt: str, attempt: int) -> str | None:
        if prompt == "p3" and attempt < 3:
            return "429:0.1"
        return "400" if (prompt, attempt) == ("p5", 0) else None

    with FaultServer(faults, delay_s=0.002) as server:
        with open_engine(server_config(server), tmp_path) as engine:
            found = list(engine.answers([*requests_for(60), *requests_for(6)]))
            assert [number for number, _ in found] == list(range(66))
            assert found[5][1].failure == "status 400: fault 400 (after 1 tries)"
            for number, answer in found:
                if answer.failure is None:
                    assert answer.generations[0].text == answer_text(f"p{number % 60}")
        calls = len(server.calls)
        with open_engine(server_config(server), tmp_path) as engine:
            again = list(engine.answers(requests_for(60)))
        assert [call.prompt for call in server.calls[calls:]] in ([], ["p5"])
    assert texts(again) == [answer_text(f"p{i}") for i in range(60)]


def test_requests_that_are_equal_and_in_flight_together_are_asked_once(tmp_path: Path) -> None:
    with (
        FaultServer(delay_s=0.05) as server,
        open_engine(server_config(server), tmp_path) as engine,
    ):
        assert len(list(engine.answers([Request("p", 8)] * 20))) == 20
    assert len(server.calls) == 1


def test_an_answer_is_on_the_disk_before_it_is_handed_out(tmp_path: Path) -> None:
    """Also those that wait behind it, while the caller sleeps over the first."""
    with FaultServer() as server, open_engine(server_config(server), tmp_path) as engine:
        answers = engine.answers(requests_for(100))
        next(answers)
        server.wait_for(lambda: 16 <= len(engine.file) == len(server.calls), "the disk")
        answers.close()


@pytest.mark.parametrize("limit", ["calls", "tokens", "money"])
def test_a_budget_stops_the_job_and_is_never_passed(tmp_path: Path, limit: str) -> None:
    """A call costs 7 + 5 tokens; 30 of them fit, and the 30th still had room for the most."""
    budget = {limit: {"calls": 30, "tokens": 380, "money": 380e-6}[limit]}
    if limit == "money":
        budget |= {"price_in": 1.0, "price_out": 1.0}
    with FaultServer(delay_s=0.002) as server:
        got = []
        for _ in range(2):  # the second run has nothing left to spend
            with (
                open_engine(server_config(server, **budget), tmp_path) as engine,
                pytest.raises(StoppedOnRequest, match="no room .* 30 calls, 210 . 150 tokens"),
            ):
                for item in engine.answers(requests_for(100)):
                    got.append(item)
            assert len(server.calls) == len(engine.file) == 30
        assert [number for number, _ in got] == [*range(30), *range(30)]
        with open_engine(server_config(server), tmp_path) as engine:
            assert len(list(engine.answers(requests_for(100)))) == 100
        assert len(server.calls) == 100


def test_a_stop_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    with FaultServer(delay_s=0.02) as server:
        stopping: list[int] = []
        config = server_config(server)
        with open_engine(config, tmp_path, stopping=lambda: bool(stopping)) as engine:
            with pytest.raises(StoppedOnRequest, match="stopped"):
                for number, _ in engine.answers(requests_for(100)):
                    if number == 10:
                        stopping.append(1)
            assert 10 < len(engine.file) == len(server.calls) < 60


def test_a_torn_line_is_cut_and_a_damaged_one_asked_again(tmp_path: Path) -> None:
    with kept(tmp_path) as engine:
        list(engine.answers(requests_for(4)))
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    for cut in (1, 30, len(whole.splitlines(True)[-1]) - 1):
        path.write_bytes(whole[:-cut])
        with kept(tmp_path) as engine:
            assert len(engine.file) == 3
            assert path.read_bytes() == b"".join(whole.splitlines(True)[:3])
            list(engine.answers(requests_for(4)))
            assert asked(engine) == ["p3"]
        assert path.read_bytes() == whole
    lines = whole.splitlines(True)
    path.write_bytes(lines[0] + b"\0" * 20 + b"\n" + lines[2] + lines[3])
    with kept(tmp_path) as engine:
        assert texts(engine.answers(requests_for(4))) == ["P0", "P1", "P2", "P3"]
        assert asked(engine) == ["p1"]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    true_write = os.write
    with kept(tmp_path) as engine:
        list(engine.answers(requests_for(2)))
        before = (tmp_path / "answers.jsonl").read_bytes()
        monkeypatch.setattr(os, "write", lambda fd, data: true_write(fd, data[:20]))
        with pytest.raises(OSError, match="No space left.*answers.jsonl"):
            list(engine.answers(requests_for(3)))
        monkeypatch.undo()
        assert (tmp_path / "answers.jsonl").read_bytes() == before
        assert texts(engine.answers(requests_for(3))) == ["P0", "P1", "P2"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with kept(tmp_path), pytest.raises(UserError, match="another process is writing"):
        kept(tmp_path)
    kept(tmp_path).close()


def test_a_line_holds_what_the_formats_say(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.jsonl")
    request = Request((Message("user", "ä\u2028"),), 3, ("x",), n=1, logprobs=True)
    answer = Answer((Generation("y\n", "stop", 2, (-1.0, -0.5)),), None, 2, 5, 2)
    assert file.read(file.append(key_of(request, WHO), request, answer)) == answer
    failed = Answer((), "status 500 (after 8 tries)", 8)
    assert file.read(file.append("ab" * 32, request, failed)) == failed
    assert file.find("ab" * 32) is None
    file.close()
    row, _ = (json.loads(line) for line in file.path.read_text().split("\n")[:2])
    assert list(row) == ["key", "generations", "calls", "prompt_tokens", "new_tokens", "request"]
    again = AnswerFile(file.path)
    assert (len(again), again.calls, again.prompt_tokens, again.new_tokens) == (1, 10, 5, 2)
    again.close()


def test_long_answers_and_answers_over_the_read_size(tmp_path: Path) -> None:
    script = {f"p{i}": "x" * (i * 65_500) for i in range(1, 4)}
    with kept(tmp_path, script) as engine:
        requests = [Request(prompt, 8) for prompt in script]
        assert texts(engine.answers(requests)) == list(script.values())


def test_all_settings_reach_a_scripted_engine(tmp_path: Path) -> None:
    chat = (Message("system", "s"), Message("user", "u"))
    with kept(tmp_path, {"s\nu": "a b c"}) as engine:
        [(_, answer)] = engine.answers([Request(chat, 2, n=3, temperature=1.0, seed=1)])
    assert answer.generations == (Generation("a b", "length", 2),) * 3


def test_a_greedy_engine_in_a_budget(tmp_path: Path) -> None:
    """An engine that has `generate` only, and refuses what it cannot do."""

    class Plain(ScriptedEngine):
        in_flight = 4
        answer_group = Engine.answer_group

    engine = KeptEngine(Plain(str.upper), tmp_path, who=WHO, budget=BudgetConfig(calls=10))
    with engine, pytest.raises(StoppedOnRequest, match="10 calls"):
        list(engine.answers(requests_for(11)))
    with KeptEngine(Plain(str.upper), tmp_path, who=WHO) as engine:
        assert [g.text for g in engine.generate([f"p{i}" for i in range(11)], 8)][-1] == "P10"
        assert asked(engine) == ["p10"]
        with pytest.raises(UserError, match="temperature 1.0"):
            list(engine.answers([Request("p", 8, temperature=1.0)]))
        with pytest.raises(UserError, match="was given a chat, or"):
            list(engine.answers([Request((Message("user", "p"),), 8)]))


@pytest.mark.parametrize(
    "keys",
    [{"prompt": ""}, {"max_new_tokens": 0}, {"n": 0}, {"stop": ("",)}, {"temperature": -1}]
    + [{"top_p": 0}, {"prompt": "\ud800"}, {"temperature": float("nan")}]
    + [{"temperature": float("inf")}],
)
def test_a_request_that_nobody_can_answer(keys: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Request(**({"prompt": "p", "max_new_tokens": 1} | keys))
