"""The wire of OpenAI-compatible servers: a request as the body of a call, a reply as an answer."""

import json
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from megatron_math.engine.interface import Answer, Finish, Generation, Request, cut_at_stop

Api = Literal["chat", "completions"]
PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}
OWN_KEYS = frozenset(
    ("model", "messages", "prompt", "max_tokens", "stop", "n", "temperature", "top_p", "seed")
    + ("logprobs", "stream")
)
FINISHES: Mapping[str, Finish] = {"stop": "stop", "length": "length", "eos": "stop"}
BYTES_A_TOKEN = 3  # fewer than any language's average: an estimate rather too high than too low


class FaultyReply(Exception):  # noqa: N818 - the reply's fault, maybe mended by another try
    """A reply with status 200 that is no answer."""


class Refused(Exception):  # noqa: N818 - an answer of a kind
    """A reply that another try would not change."""


def body_of(request: Request, api: Api, model: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a call. What has its usual value is left out: not every server knows every key.

    Raises Refused for a chat that a completions server was meant to continue.
    """
    body: dict[str, Any] = {"model": model, **extra, "max_tokens": request.max_new_tokens}
    if api == "chat":
        turns = [("user", request.prompt)] if isinstance(request.prompt, str) else request.prompt
        body["messages"] = [{"role": role, "content": content} for role, content in turns]
    elif isinstance(request.prompt, str):
        body["prompt"] = request.prompt
    else:
        raise Refused("a chat was given to an engine with 'api: completions'; use 'api: chat'")
    body["temperature"] = request.temperature
    if request.stop:
        body["stop"] = list(request.stop)
    if request.n > 1:
        body["n"] = request.n
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    if request.seed is not None:
        body["seed"] = request.seed
    if request.logprobs:
        body["logprobs"] = True if api == "chat" else 0
    return body


def answer_of(raw: bytes, request: Request, api: Api) -> Answer:
    """The answer in a reply of status 200.

    Raises FaultyReply when it is not whole or not what was asked for, Refused when the server's
    filter took the text away.
    """
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError):
        raise FaultyReply(f"the reply is not JSON: {raw[:80]!r}") from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise FaultyReply(f"the reply has no choices: {raw[:200]!r}")
    if sorted(_place(choice, i) for i, choice in enumerate(choices)) != list(range(request.n)):
        raise FaultyReply(
            f"asked for {request.n} choices, the reply has {len(choices)}"
            + (" (for a server that does not know 'n': samples: apart)" if request.n > 1 else "")
        )
    choices.sort(key=lambda choice: _place(choice, 0))
    usage = reply.get("usage") if isinstance(reply.get("usage"), dict) else {}
    new_tokens = _count(usage.get("completion_tokens"))
    generations = tuple(
        _generation(choice, request, api, new_tokens or 0 if request.n == 1 else 0)
        for choice in choices
    )
    prompt_tokens = _count(usage.get("prompt_tokens"))
    return Answer(
        generations,
        prompt_tokens=estimate_tokens(*request.texts()) if prompt_tokens is None else prompt_tokens,
        new_tokens=estimate_tokens(*(generation.text for generation in generations))
        if new_tokens is None
        else new_tokens,
    )


def estimate_tokens(*texts: str) -> int:
    """Tokens of texts whose tokenizer is not known, rather too many."""
    return sum(-(-len(text.encode("utf-8")) // BYTES_A_TOKEN) for text in texts)


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Seconds that a Retry-After (seconds, or a date) asks for; None where there is none."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now_s
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def error_in(raw: bytes) -> tuple[str, str]:
    """(message, code) of an error's body; the body's beginning where it is not JSON."""
    try:
        error = json.loads(raw)
    except (ValueError, RecursionError):
        error = None
    if isinstance(error, dict):
        inner = error.get("error", error)
        if isinstance(inner, dict):
            message = inner.get("message", inner.get("detail", inner))
            return str(message)[:500], str(inner.get("code", ""))
        return str(inner)[:500], ""
    return raw[:200].decode("utf-8", "replace"), ""


def _place(choice: dict[str, Any], otherwise: int) -> int:
    place = choice.get("index", otherwise)
    return place if isinstance(place, int) else -1


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _generation(choice: dict[str, Any], request: Request, api: Api, num_tokens: int) -> Generation:
    holder = choice.get("message") if api == "chat" else choice
    text = holder.get("content" if api == "chat" else "text") if isinstance(holder, dict) else None
    finish = choice.get("finish_reason")
    if finish == "content_filter":
        raise Refused("the server's content filter took the answer away")
    if text is None and finish == "length" and isinstance(holder, dict):
        text = ""  # all tokens went into reasoning that the server keeps apart
    if not isinstance(text, str) or not isinstance(finish, str) or finish not in FINISHES:
        raise FaultyReply(f"a choice without text or with finish_reason {finish!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise FaultyReply("a choice holds what is no character (a lone surrogate)") from None
    text, stopped = cut_at_stop(text, request.stop)
    logprobs = _logprobs(choice.get("logprobs"), api) if request.logprobs else None
    return Generation(
        text,
        "stop" if stopped else FINISHES[finish],
        num_tokens or len(logprobs or ()),
        logprobs,
    )


def _logprobs(raw: Any, api: Api) -> tuple[float, ...] | None:
    if not isinstance(raw, dict):
        return None
    if api == "chat":
        tokens = raw.get("content")
        values = [t.get("logprob") for t in tokens if isinstance(t, dict)] if tokens else []
    else:
        values = raw.get("token_logprobs") or []
    known = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    return tuple(known) if known and len(known) == len(values) else None
