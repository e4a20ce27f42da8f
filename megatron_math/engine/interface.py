"""What every engine offers: prompts in, generations out.

`generate` continues a list of texts greedily. `answers` takes requests one by one, each with its
own settings, and gives answers as they come: generations, or the reason why there are none.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import Any, Literal, NamedTuple

from megatron_math.base.errors import UserError

Finish = Literal["stop", "length"]
Role = Literal["system", "user", "assistant"]
NO_ROOM = "no room for an answer"  # a failure that begins so is the prompt's, and stays


class Message(NamedTuple):
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True)
class Request:
    """One question to a model, with all that decides the answer but the model itself.

    prompt: a text to be continued, or the turns of a chat. n: samples. temperature 0: greedy. seed:
    None leaves it to the model; equal requests are one question, so that different samples of one
    prompt need different seeds, or `n`. logprobs: of the tokens that were chosen, where offered.
    continuation: nothing is written; its own tokens' log-probabilities behind the prompt are asked.
    Raises UserError for values that no model can answer.
    """

    prompt: str | tuple[Message, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: bool = False
    continuation: str | None = None

    def __post_init__(self) -> None:
        if not self.prompt or self.max_new_tokens < 1 or self.n < 1 or "" in self.stop:
            raise UserError(
                f"a request needs a prompt, at least one new token and one sample, and no stop "
                f"string may be empty; found {self.max_new_tokens} tokens, {self.n} samples, stop "
                f"{self.stop!r}, prompt {self.prompt!r:.80}"
            )
        if not (0 <= self.temperature < math.inf and 0 < self.top_p <= 1):
            raise UserError(
                f"a temperature is a number from 0 on and top_p above 0 and at most 1; found "
                f"{self.temperature} and {self.top_p}"
            )
        if self.continuation is not None and (not self.continuation or self.n > 1):
            raise UserError("a continuation whose likelihood is asked is one text, and not empty")
        if self.continuation is not None and not isinstance(self.prompt, str):
            raise UserError("the likelihood of a continuation is asked behind a text, not a chat")
        try:
            "".join((*self.texts(), *self.stop, self.continuation or "")).encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"a prompt cannot be written as UTF-8 ({error.reason} at character {error.start}); "
                f"replace what is no character: {self.prompt!r:.80}"
            ) from None

    def texts(self) -> list[str]:
        """The prompt, or the contents of its turns."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [message.content for message in self.prompt]

    def to_json(self) -> dict[str, Any]:
        """All values under their names; the turns of a chat as objects."""
        row = asdict(self)
        if self.continuation is None:
            del row["continuation"]
        if not isinstance(self.prompt, str):
            row["prompt"] = [message._asdict() for message in self.prompt]
        floats = {"temperature": float(self.temperature), "top_p": float(self.top_p)}
        return row | floats | {"stop": list(self.stop)}


@dataclass(frozen=True)
class Generation:
    """What followed one prompt.

    text: without special tokens, cut before the first stop string. finish: "stop" when the model
    ended the text itself or wrote a stop string, "length" when it ran out of tokens. num_tokens:
    tokens generated up to there, the end token not counted; a server's own count where a server
    answered, 0 where it tells none for this sample alone. logprobs: of each token, natural.
    """

    text: str
    finish: Finish
    num_tokens: int
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """What became of one request: `n` generations, or none and the `failure`.

    calls: how often it was sent. prompt_tokens, new_tokens: what was, or may have been, charged.
    """

    generations: tuple[Generation, ...] = ()
    failure: str | None = None
    calls: int = 1
    prompt_tokens: int = 0
    new_tokens: int = 0


Keep = Callable[[int, Answer], None]
Answers = Generator[tuple[int, Answer], None, None]


class Engine(ABC):
    """Something that continues texts."""

    in_flight: int = 64
    """Requests that are taken before their answers are there."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        """Continue every prompt greedily by at most `max_new_tokens` tokens.

        Raises UserError when no prompt leaves the model any room.
        """

    def answers(self, requests: Iterable[Request], keep: Keep | None = None) -> Answers:
        """(number of the request from 0, its answer) for every request, in whatever order.

        Requests are taken as there is room, in the caller's thread. keep: called with the same two
        the moment an answer is there, maybe in another thread and long before it is handed out.
        Raises UserError for a request of a kind that this engine cannot answer.
        """
        numbered = enumerate(requests)
        while block := list(islice(numbered, self.in_flight)):
            for _, group in groupby(block, lambda item: (item[1].max_new_tokens, item[1].stop)):
                numbers, own = zip(*group, strict=True)
                for number, answer in zip(numbers, self.answer_group(own), strict=True):
                    if keep is not None:
                        keep(number, answer)
                    yield number, answer

    def answer_group(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers to requests with the same number of tokens and the same stop strings.

        This one is for engines that have `generate` only. Raises UserError for a chat or samples.
        """
        for request in requests:
            refuse_continuation(self, request)
            if not isinstance(request.prompt, str) or request.n > 1 or request.temperature > 0:
                raise UserError(
                    f"{type(self).__name__} continues plain texts greedily; it was given a chat, "
                    f"or asked for samples (n {request.n}, temperature {request.temperature})"
                )
        first = requests[0]
        prompts = [request.texts()[0] for request in requests]
        generations = self.generate(prompts, first.max_new_tokens, first.stop)
        return [Answer((item,), new_tokens=item.num_tokens) for item in generations]

    def calls_for(self, request: Request) -> int:
        """Calls that answer `request` if none fails."""
        return 1

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what it holds."""


def refuse_continuation(engine: Engine, request: Request) -> None:
    """Raise UserError for an engine that cannot say how likely a given text is."""
    if request.continuation is not None:
        raise UserError(
            f"{type(engine).__name__} does not say how likely a given text is; ask the choice in "
            f"another way, or a model in this process (hf, megatron or vllm)"
        )


def generate_by_answers(
    engine: Engine, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str]
) -> list[Generation]:
    """`Engine.generate` by way of `answers`. Raises UserError for the first failure."""
    requests = [Request(prompt, max_new_tokens, tuple(stop)) for prompt in prompts]
    found: dict[int, Answer] = dict(engine.answers(requests))
    for number, answer in sorted(found.items()):
        if answer.failure is not None:
            raise UserError(f"no answer to {prompts[number]!r:.80}: {answer.failure}")
    return [found[number].generations[0] for number in range(len(prompts))]


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the earliest stop string, and whether there was one."""
    ends = [end for end in (text.find(string) for string in stop) if end >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
