"""An engine behind HTTP: any server that speaks OpenAI's protocol.

The calls run in a thread with an event loop of its own, so that they go on while the caller works
with an answer. Requests are taken in the caller's thread, never more than are in flight twice.
"""

import asyncio
import os
import threading
from collections.abc import Iterable, Sequence
from queue import SimpleQueue
from types import TracebackType

from megatron_math.base.errors import UserError
from megatron_math.engine.call import Caller
from megatron_math.engine.config import ServerConfig
from megatron_math.engine.interface import (
    Answer,
    Answers,
    Engine,
    Generation,
    Keep,
    Request,
    generate_by_answers,
    refuse_continuation,
)
from megatron_math.engine.pace import Pace

CLOSING_S = 10.0


class ServerEngine(Engine):
    """Asks `config.url`, with the key that the environment holds under `config.key_env`.

    Raises UserError for a key that cannot be sent. It is in no message and in no file.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.in_flight = 2 * config.concurrency
        self.pace = Pace(config.concurrency)
        self._key = os.environ.get(config.key_env, "").strip() or None
        if self._key is not None and not (self._key.isascii() and self._key.isprintable()):
            raise UserError(
                f"the environment variable {config.key_env} holds a key with characters that "
                f"cannot be sent in a header; export it again without line ends and quotes"
            )

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        return generate_by_answers(self, prompts, max_new_tokens, stop)

    def calls_for(self, request: Request) -> int:
        return request.n if self.config.samples == "apart" else 1

    def answers(self, requests: Iterable[Request], keep: Keep | None = None) -> Answers:
        numbered = enumerate(requests)
        item = next(numbered, None)
        if item is None:
            return
        with _Calls(Caller(self.config, self._key, self.pace), keep) as calls:
            while item is not None or calls.pending:
                while item is not None and calls.pending < self.in_flight:
                    refuse_continuation(self, item[1])
                    calls.begin(*item)
                    item = next(numbered, None)
                yield calls.wait()


class _Calls:
    """The thread in which calls are made. Leaving the block ends what is still on its way."""

    def __init__(self, caller: Caller, keep: Keep | None) -> None:
        self.pending = 0
        self._caller = caller
        self._keep = keep
        self._done: SimpleQueue[tuple[int, Answer | BaseException]] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "_Calls":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(CLOSING_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSING_S)
        self._loop.close()

    def begin(self, number: int, request: Request) -> None:
        self.pending += 1
        asyncio.run_coroutine_threadsafe(self._answer(number, request), self._loop)

    def wait(self) -> tuple[int, Answer]:
        number, result = self._done.get()
        self.pending -= 1
        if isinstance(result, BaseException):
            raise result
        return number, result

    async def _answer(self, number: int, request: Request) -> None:
        result: Answer | BaseException
        try:
            result = await self._caller.ask(request)
            if self._keep is not None:
                self._keep(number, result)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised again by wait(), where it is met
            result = error
        self._done.put((number, result))

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._caller.close()
