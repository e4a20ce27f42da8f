"""Against a server with every fault: each prompt is answered once, or failed with a reason."""

import logging
import random
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest
from fault_server import FaultServer, answer_text

from megatron_math.base.errors import UserError
from megatron_math.engine.config import ServerConfig
from megatron_math.engine.interface import Answer, Message, Request
from megatron_math.engine.server import ServerEngine
from megatron_math.engine.wire import FaultyReply, answer_of, error_in

CANARY = "sk-canary-0123456789abcdef"


def engine_at(server: FaultServer, **keys: Any) -> ServerEngine:
    fast = {"first_wait_s": 0.01, "longest_wait_s": 0.05, "silence_s": 1.0, "connect_s": 1.0}
    return ServerEngine(ServerConfig(url=server.url, model="m", **{**fast, **keys}))


def ask(engine: ServerEngine, requests: list[Request]) -> list[Answer]:
    found = list(engine.answers(requests))
    assert sorted(number for number, _ in found) == list(range(len(requests)))
    return [answer for _, answer in sorted(found, key=lambda item: item[0])]


def only(server: FaultServer, prompt: str = "p", **keys: Any) -> Answer:
    return ask(engine_at(server, **keys), [Request(prompt, 16)])[0]


def test_a_storm_of_faults_loses_nothing_and_asks_nothing_twice() -> None:
    kinds = ["429", "429:0.05", "503:0", "500", "502", "half", "reset", "garbage", "choices:0"]
    kinds += ["choices:3", "hang", 'reply:{"choices": 7}', 'reply:{"choices": [{}]}', "reply:[]"]
    generator = random.Random(5)
    plan = {f"p{i}": generator.choices(kinds, k=generator.randrange(4)) for i in range(150)}
    for i in range(0, 150, 3):
        plan[f"p{i}"] = []
    plan["p7"] = ["500"] * 99
    plan["p8"] = ["400"]

    def faults(prompt: str, attempt: int) -> str | None:
        return plan[prompt][attempt] if attempt < len(plan[prompt]) else None

    with FaultServer(faults) as server:
        engine = engine_at(server, concurrency=16, silence_s=0.3)
        answers = ask(engine, [Request(prompt, 16) for prompt in plan])
    tries = Counter(call.prompt for call in server.calls)
    for (prompt, planned), answer in zip(plan.items(), answers, strict=True):
        if prompt in ("p7", "p8"):
            continue
        assert answer.generations[0].text == answer_text(prompt), answer.failure
        assert answer.calls == tries[prompt] == len(planned) + 1
    assert answers[7].failure == "status 500: fault 500 (after 8 tries)"
    assert answers[8].failure == "status 400: fault 400 (after 1 tries)"
    assert (tries["p7"], tries["p8"]) == (8, 1)


def test_what_is_sent_and_what_is_read() -> None:
    chat = (Message("system", "be short"), Message("user", "why?"))
    with FaultServer() as server:
        engine = engine_at(server, extra={"top_k": 5}, revision="2026")
        request = Request(
            chat, 9, ("\n\n", "Q:"), n=3, temperature=0.7, top_p=0.9, seed=4, logprobs=True
        )
        answer, plain = ask(engine, [request, Request("p", 3)])
        [continued] = ask(
            engine_at(server, api="completions"), [Request("Q", 3, logprobs=True, stop=("to",))]
        )
    sent = {call.prompt: call.body for call in server.calls}
    assert sent["why?"] == {
        "model": "m", "top_k": 5, "max_tokens": 9, "stop": ["\n\n", "Q:"], "n": 3, "seed": 4,
        "messages": [
            {"role": "system", "content": "be short"}, {"role": "user", "content": "why?"},
        ],
        "temperature": 0.7, "top_p": 0.9, "logprobs": True,
    }  # fmt: skip
    assert sent["p"].keys() == {"model", "top_k", "max_tokens", "messages", "temperature"}
    assert sent["Q"]["logprobs"] == 0
    texts = [item.text for item in answer.generations]
    assert texts == [answer_text("why?", 4, sample) for sample in range(3)]
    assert answer.generations[0].logprobs == (-0.5, -0.25)
    assert (answer.prompt_tokens, answer.new_tokens, plain.new_tokens) == (7, 15, 5)
    assert plain.generations[0].num_tokens == 5
    assert continued.generations[0].text == "answer "  # cut here, since the server did not
    assert "authorization" not in server.calls[0].headers


def test_samples_apart_have_seeds_of_their_own() -> None:
    with FaultServer(lambda prompt, attempt: "500" if attempt == 1 else None) as server:
        engine = engine_at(server, samples="apart")
        [answer] = ask(engine, [Request("p", 4, n=3, seed=10)])
    texts = [item.text for item in answer.generations]
    assert texts == [answer_text("p", seed) for seed in (10, 11, 12)]
    assert (answer.calls, answer.prompt_tokens, answer.new_tokens) == (4, 21, 15)


def test_a_server_without_n_is_named() -> None:
    with FaultServer(lambda *_: "choices:1") as server:
        [answer] = ask(engine_at(server, tries=2), [Request("p", 4, n=3)])
    assert answer.failure is not None
    assert "asked for 3 choices, the reply has 1" in answer.failure
    assert "samples: apart" in answer.failure


def test_retry_after_is_kept_by_all() -> None:
    with FaultServer(lambda prompt, n: "429:0.4" if (prompt, n) == ("p0", 0) else None) as server:
        ask(engine_at(server, concurrency=1), [Request(f"p{i}", 4) for i in range(9)])
    assert len(server.calls) == 10
    assert server.calls[1].time_s - server.calls[0].time_s >= 0.39


def test_a_retry_after_of_a_day_is_a_failure() -> None:
    with FaultServer(lambda *_: "429:86400") as server:
        assert "status 429" in str(only(server).failure)
    assert len(server.calls) == 1


def test_the_number_in_flight_adapts() -> None:
    """The delay is many times what a call costs here, so that places are what there is too few."""
    with FaultServer(delay_s=0.05) as server:
        server.places = 12
        engine = engine_at(server, concurrency=64, tries=30, longest_wait_s=0.02)
        answers = ask(engine, [Request(f"p{i}", 4) for i in range(400)])
        assert all(answer.failure is None for answer in answers)
        refused = sum(call.fault is not None for call in server.calls)
        assert server.most_in_flight > 12  # it was tried
        print(f"limit {engine.pace.limit:.1f}, {refused} of {len(server.calls)} calls refused")
        assert engine.pace.limit < 30
        assert refused < 0.25 * len(server.calls)
    with FaultServer(delay_s=0.05) as server:
        ask(engine_at(server, concurrency=24), [Request(f"p{i}", 4) for i in range(200)])
        assert 20 <= server.most_in_flight <= 24


def test_a_reply_that_drips_for_ever_is_cut_off() -> None:
    with FaultServer(lambda prompt, attempt: None if attempt else "drip") as server:
        assert only(server, silence_s=0.1).calls == 2


def test_a_dead_server_ends_the_job() -> None:
    with FaultServer() as server:
        url = server.url
    engine = engine_at(server, tries=2, failures_in_a_row=5)
    with pytest.raises(UserError, match="5 requests in a row failed .* no connection") as raised:
        list(engine.answers(Request(f"p{i}", 4) for i in range(10**9)))
    assert url in str(raised.value)


@pytest.mark.parametrize("fault", ["401", "403", "402", "404", "307", "429:insufficient_quota"])
def test_what_no_request_can_pass_ends_the_job(fault: str) -> None:
    with (
        FaultServer(lambda prompt, _: fault if prompt == "p3" else None) as server,
        pytest.raises(UserError, match="the same command asks the rest"),
    ):
        list(engine_at(server).answers(Request(f"p{i}", 4) for i in range(10**9)))


def test_empty_and_filtered_answers() -> None:
    def reply(finish: str, content: str) -> str:
        return (
            f'reply:{{"choices": [{{"finish_reason": "{finish}", '
            f'"message": {{"content": {content}}}}}]}}'
        )

    replies = {
        "filtered": reply("content_filter", '"x"'),
        "reasoned": reply("length", "null"),
        "empty": reply("stop", '""'),
        "surrogate": reply("stop", '"\\ud800"'),
    }
    with FaultServer(lambda prompt, _: replies[prompt]) as server:
        answers = dict(
            zip(
                replies,
                ask(engine_at(server, tries=2), [Request(p, 4) for p in replies]),
                strict=True,
            )
        )
    assert "content filter" in str(answers["filtered"].failure)
    assert answers["reasoned"].generations[0].finish == "length"
    assert answers["empty"].generations[0].text == ""
    assert "no character" in str(answers["surrogate"].failure)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff", b"[" * 100_000, b"7", b'{"choices": {}}', b'{"choices": [7]}']
    + [b'{"choices": [{"finish_reason": %s, "message": {"content": "x"}}]}' % finish
       for finish in (b"[]", b"{}", b"7", b"null", b'"gone"')]
    + [b'{"choices": [{"finish_reason": "stop", "message": %s}]}' % message
       for message in (b"7", b"{}", b'{"content": ["x"]}')]
    + [b'{"choices": [{"finish_reason": "stop", "index": "0", "message": {"content": "x"}}]}'],
)  # fmt: skip
def test_no_garbage_is_taken_for_an_answer(raw: bytes) -> None:
    with pytest.raises(FaultyReply):
        answer_of(raw, Request("p", 4), "chat")
    error_in(raw)


def test_the_caller_pulls_requests_only_as_there_is_room() -> None:
    pulled, threads = [], set()

    def requests() -> Any:
        for i in range(10**9):
            pulled.append(i)
            threads.add(threading.get_ident())
            yield Request(f"p{i}", 4)

    with FaultServer() as server:
        answers = engine_at(server, concurrency=4).answers(requests())
        for _ in range(50):
            next(answers)
        answers.close()
    assert len(pulled) <= 50 + 2 * 4 + 1
    assert threads == {threading.get_ident()}


def test_the_key_is_sent_and_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY + "\n")
    caplog.set_level(logging.DEBUG)
    echoed = f'reply:{{"choices": [{{"finish_reason": "stop", "message": {{"content": "{CANARY}"'
    faults = {"a": "echo:500", "b": "echo:400", "c": echoed + "}}]}"}
    with FaultServer(lambda prompt, _: faults.get(prompt)) as server:
        engine = engine_at(server, key_env="CANARY_KEY", tries=2)
        answers = ask(engine, [Request(p, 4) for p in "abcd"])
        faults["e"] = "echo:401"
        with pytest.raises(UserError, match="CANARY_KEY, which is set") as raised:
            ask(engine, [Request("e", 4)])
    assert server.calls[0].headers["authorization"] == f"Bearer {CANARY}"
    assert [answer.failure is None for answer in answers] == [False, False, False, True]
    assert "Bearer <CANARY_KEY>" in str(answers[0].failure)
    said = f"{answers} {raised.value} {engine.config} {engine!r} {caplog.text} {capfd.readouterr()}"
    assert CANARY not in said


def test_a_key_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", f"{CANARY}\r\nx")
    with pytest.raises(UserError, match="CANARY_KEY") as raised:
        ServerEngine(ServerConfig(url="http://localhost/v1", model="m", key_env="CANARY_KEY"))
    assert CANARY not in str(raised.value)


def test_greedy_lists_as_every_engine_takes_them() -> None:
    with FaultServer(lambda prompt, _: "400" if prompt == "bad" else None) as server:
        engine = engine_at(server, api="completions")
        texts = [item.text for item in engine.generate([f"p{i}" for i in range(9)], 4)]
        assert texts == [answer_text(f"p{i}") for i in range(9)]
        with pytest.raises(UserError, match="no answer to 'bad'"):
            engine.generate(["p", "bad"], 4)


def test_the_client_is_loaded_when_it_is_needed() -> None:
    code = "import sys, megatron_math.engine.open; sys.exit('httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
