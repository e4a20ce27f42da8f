"""A real HTTP server on loopback that speaks OpenAI's protocol, or fails as it is told.

`reply(prompt, seed, sample)` is the text of a good answer.

`faults(prompt, attempt)` names what happens to the attempt-th call (from 0) for a prompt; None is a
good answer. The text of an answer depends on prompt, seed and sample only.
"""

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Faults = Callable[[str, int], str | None]
Reply = Callable[[str, int | None, int], str]


def answer_text(prompt: str, seed: int | None = None, sample: int = 0) -> str:
    return f"answer to {prompt} {'' if seed is None else seed}/{sample}"


def no_faults(prompt: str, attempt: int) -> str | None:
    return None


@dataclass
class Call:
    prompt: str
    body: dict[str, Any]
    headers: dict[str, str]
    fault: str | None
    time_s: float = field(default_factory=time.monotonic)


class FaultServer:
    """Use as a context. calls: all that came, in their order; most_in_flight: at one time."""

    def __init__(
        self, faults: Faults = no_faults, *, delay_s: float = 0.0, reply: Reply = answer_text
    ) -> None:
        self.faults = faults
        self.reply = reply
        self.delay_s = delay_s
        self.calls: list[Call] = []
        self.connections = self.in_flight = self.most_in_flight = 0
        self.places = 10**9  # in flight beyond these: 429
        self._attempts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def wait_for(self, condition: Callable[[], bool], what: str, limit_s: float = 30) -> None:
        end_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end_s, f"waited in vain for {what}"
            time.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ", 2)[1]
        headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])
            if name
        }
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        is_chat = path.endswith("/chat/completions")
        prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
        fault = self.faults(prompt, self._attempts[prompt])
        self._attempts[prompt] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if fault is None and self.in_flight > self.places:
            fault = "429"
        self.calls.append(Call(prompt, body, headers, fault))
        try:
            await asyncio.sleep(self.delay_s)
            if fault is None:
                _reply(writer, 200, _good(prompt, body, is_chat, self.reply))
                return True
            return await self._fail(fault, writer, prompt, body, is_chat, headers)
        finally:
            self.in_flight -= 1

    async def _fail(
        self,
        fault: str,
        writer: asyncio.StreamWriter,
        prompt: str,
        body: dict[str, Any],
        is_chat: bool,
        headers: dict[str, str],
    ) -> bool:
        kind, _, detail = fault.partition(":")
        good = _good(prompt, body, is_chat, self.reply)
        if kind.isdigit():
            error = {"error": {"message": f"fault {fault}", "code": detail or None}}
            extra = f"retry-after: {detail}\r\n" if kind in ("429", "503") and detail else ""
            _reply(writer, int(kind), error, extra)
            return True
        if kind == "echo":  # the key comes back in an error, as some proxies do it
            _reply(writer, int(detail), {"error": {"message": headers.get("authorization")}})
            return True
        if kind == "hang":
            await asyncio.sleep(3600)
        elif kind == "half":
            text = json.dumps(good).encode()
            writer.write(_head(200, len(text)) + text[: len(text) // 2])
            await writer.drain()
        elif kind == "reset":
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif kind == "drip":
            writer.write(_head(200, 10**6))
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        elif kind == "garbage":
            text = b'{"choices": [{"ind\xff\xfe'
            writer.write(_head(200, len(text)) + text)
            return True
        elif kind == "choices":  # a wrong number of them
            good["choices"] = (good["choices"] * 8)[: int(detail)]
            for i, choice in enumerate(good["choices"]):
                good["choices"][i] = choice | {"index": i}
            _reply(writer, 200, good)
            return True
        elif kind == "reply":  # any JSON
            _reply(writer, 200, json.loads(detail))
            return True
        else:
            raise AssertionError(fault)
        return False


def _good(prompt: str, body: dict[str, Any], is_chat: bool, reply: Reply) -> dict[str, Any]:
    choices = []
    for sample in range(body.get("n", 1)):
        text = reply(prompt, body.get("seed"), sample)
        choice: dict[str, Any] = {"index": sample, "finish_reason": "stop"}
        if is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if "logprobs" in body:
            values = [-0.5, -0.25]
            choice["logprobs"] = (
                {"content": [{"token": "x", "logprob": value} for value in values]}
                if is_chat
                else {"token_logprobs": values}
            )
        choices.insert(0, choice)  # the index tells the order, not the place
    return {
        "id": "x",
        "choices": choices,
        "usage": {"prompt_tokens": 7, "completion_tokens": 5 * len(choices)},
    }


def _head(status: int, num_bytes: int, extra: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{extra}"
        f"content-length: {num_bytes}\r\n\r\n"
    ).encode()


def _reply(writer: asyncio.StreamWriter, status: int, value: Any, extra: str = "") -> None:
    text = json.dumps(value).encode()
    writer.write(_head(status, len(text), extra) + text)
