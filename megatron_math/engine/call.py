"""One request to an OpenAI-compatible server, until it is answered or given up.

Runs in one event loop. What is worth another try is tried again, later and later; what stands in
the way of every request (the key, the address, the quota, a dead server) raises UserError.
"""

import asyncio
import json
import random
import time
from dataclasses import replace

import httpx2

from megatron_math.base.errors import UserError
from megatron_math.base.secrets import masked
from megatron_math.engine.config import ServerConfig
from megatron_math.engine.interface import Answer, Request
from megatron_math.engine.pace import Pace
from megatron_math.engine.wire import (
    PATHS,
    FaultyReply,
    Refused,
    answer_of,
    body_of,
    error_in,
    retry_after_s,
)

LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
MOST_REPLY_BYTES = 1 << 26
SILENCES_A_REPLY = 4  # a reply that drips in is cut off after so many times `silence_s`
BUSY = (429, 503, 504, 529)
TRY_AGAIN = (408, 409, 425)
CONTINUES = "what was answered is kept, and the same command asks the rest"


class Fault(Exception):  # noqa: N818 - one failed try
    """A try without an answer. busy: the server has too much to do. wait_s: asked for by it."""

    def __init__(self, reason: str, *, busy: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.busy = busy
        self.wait_s = wait_s


class Caller:
    """A client of one server, with its connections. key: sent as a bearer token, or None."""

    def __init__(self, config: ServerConfig, key: str | None, pace: Pace) -> None:
        self._config = config
        self._key = key
        self._pace = pace
        self._url = config.url.rstrip("/") + PATHS[config.api]
        self._failures_in_a_row = 0
        self._answered = False
        headers = {"content-type": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(config.silence_s, connect=config.connect_s, pool=None),
            limits=httpx2.Limits(
                max_connections=config.concurrency, max_keepalive_connections=config.concurrency
            ),
            trust_env=httpx2.URL(self._url).host not in LOOPBACK,  # no proxy on the way to oneself
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, request: Request) -> Answer:
        """The answer to `request`, or its failure. Raises UserError when no request can succeed."""
        if request.n == 1 or self._config.samples == "together":
            return await self._ask_once(request)
        seeds = [None if request.seed is None else request.seed + i for i in range(request.n)]
        single = [self._ask_once(replace(request, n=1, seed=seed)) for seed in seeds]
        answers = await asyncio.gather(*single)
        failures = [answer.failure for answer in answers if answer.failure is not None]
        return Answer(
            () if failures else tuple(answer.generations[0] for answer in answers),
            failures[0] if failures else None,
            calls=sum(answer.calls for answer in answers),
            prompt_tokens=sum(answer.prompt_tokens for answer in answers),
            new_tokens=sum(answer.new_tokens for answer in answers),
        )

    async def _ask_once(self, request: Request) -> Answer:
        config, reason, tries = self._config, "", 0
        try:
            body = json.dumps(
                body_of(request, config.api, config.model, config.extra), ensure_ascii=False
            ).encode("utf-8")
            while tries < config.tries:
                tries += 1
                try:
                    answer = await self._try(body, request)
                except Fault as fault:
                    reason = masked(str(fault))
                    if fault.wait_s > config.retry_after_s:
                        break
                    if tries < config.tries:
                        backoff_s = config.first_wait_s * 2 ** min(tries - 1, 30)
                        wait_s = min(config.longest_wait_s, backoff_s) * random.uniform(0.5, 1.0)
                        await asyncio.sleep(max(wait_s, fault.wait_s))
                else:
                    self._answered, self._failures_in_a_row = True, 0
                    return replace(answer, calls=tries)
            self._failures_in_a_row += 1
        except Refused as refused:
            reason = masked(str(refused))
            self._failures_in_a_row += not self._answered  # some may be refused, but not all
        if self._failures_in_a_row >= config.failures_in_a_row:
            raise UserError(
                f"{self._failures_in_a_row} requests in a row failed at {masked(self._url)}, the "
                f"last after {tries} tries: {reason}; mend the server or the section 'server'; "
                f"{CONTINUES}"
            )
        return Answer(failure=f"{reason} (after {tries} tries)", calls=tries)

    async def _try(self, body: bytes, request: Request) -> Answer:
        async with self._pace.slot() as entered_s:
            try:
                answer = answer_of(await self._post(body), request, self._config.api)
            except FaultyReply as faulty:
                raise Fault(str(faulty)) from None
            except Fault as fault:
                if fault.busy:
                    self._pace.overloaded(entered_s)
                if 0 < fault.wait_s <= self._config.retry_after_s:
                    self._pace.close_for(fault.wait_s)
                raise
            self._pace.went_well()
            return answer

    async def _post(self, body: bytes) -> bytes:
        """The bytes of a reply of status 200. Raises Fault, Refused or UserError for any other."""
        silence_s = self._config.silence_s
        try:
            async with (
                asyncio.timeout(SILENCES_A_REPLY * silence_s),
                self._client.stream("POST", self._url, content=body) as response,
            ):
                raw = await _read(response)
        except httpx2.ConnectTimeout:
            seconds = self._config.connect_s
            raise Fault(f"no connection within {seconds:g} s", busy=True) from None
        except (httpx2.TimeoutException, TimeoutError):
            raise Fault(f"silent for {silence_s:g} s, or no end", busy=True) from None
        except httpx2.ConnectError as error:
            raise Fault(f"no connection: {error}", busy=True) from None
        except httpx2.RequestError as error:
            raise Fault(f"the connection broke: {type(error).__name__}: {error}") from None
        if response.status_code != 200:
            self._reject(response, raw)
        if self._key is not None and len(self._key) >= 8 and self._key.encode() in raw:
            raise Refused("the reply repeats the key, and is not kept")
        return raw

    def _reject(self, response: httpx2.Response, raw: bytes) -> None:
        status = response.status_code
        message, code = error_in(raw)
        said = f"status {status}: {message}"
        if status in (401, 402, 403) or code == "insufficient_quota":
            raise UserError(
                masked(
                    f"{self._url} refuses the key or its account ({said}); the key is read from "
                    f"the environment variable {self._config.key_env}, which is "
                    f"{'set' if self._key else 'not set'}; {CONTINUES}"
                )
            )
        if status in (404, 405) or 300 <= status < 400:
            raise UserError(
                masked(
                    f"{self._url} does not serve the model {self._config.model!r} ({said}); see "
                    f"server.url (mostly ending in /v1), server.model and server.api; {CONTINUES}"
                )
            )
        if status in BUSY or status in TRY_AGAIN or status >= 500:
            wait_s = retry_after_s(response.headers.get("retry-after"), time.time())
            raise Fault(said, busy=status in BUSY, wait_s=wait_s or 0.0)
        raise Refused(said)


async def _read(response: httpx2.Response) -> bytes:
    parts, num_bytes = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        num_bytes += len(part)
        if num_bytes > MOST_REPLY_BYTES:
            raise Fault(f"a reply of more than {MOST_REPLY_BYTES} bytes")
    return b"".join(parts)
