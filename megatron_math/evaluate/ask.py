"""Ask one model all rows of one benchmark. What it said is kept by the engine, not here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.benchmarks.load import LETTERS
from megatron_math.engine.interface import NO_ROOM, Engine, Generation, Request
from megatron_math.evaluate.exam import Exam, Question


@dataclass(frozen=True)
class Reply:
    """What came back for one sample of one row.

    finish: `stop`, `length` (out of tokens, or a prompt without room for an answer), `rounds` (out
    of rounds of programs) or `failed`. facts: further keys of the sample's place in a prediction.
    """

    output: str
    finish: str
    facts: dict[str, Any] = field(default_factory=dict)


def ask(exam: Exam, engine: Engine) -> list[list[Reply]]:
    """The samples of every row; one of a row whose options were scored. Not for ways with tools."""
    questions = exam.questions()
    if exam.is_scored_by_likelihood:
        return [[reply] for reply in _by_likelihood(exam, questions, engine)]
    requests = [exam.request(question) for question in questions]
    return [
        [_reply(generation) for generation in generations]
        for generations in answers_in_order(exam, engine, requests)
    ]


def _reply(generation: Generation | None) -> Reply:
    if generation is None:
        return Reply("", "failed")
    facts = {}
    if generation.logprobs is not None:
        mean = sum(generation.logprobs) / max(1, len(generation.logprobs))
        facts["mean_logprob"] = mean
    return Reply(generation.text, generation.finish, facts)


def answers_in_order(
    exam: Exam, engine: Engine, requests: Sequence[Request]
) -> list[tuple[Generation | None, ...]]:
    """The generations of each request, None in the place of those that failed.

    A prompt without room for an answer has an empty one. Raises UserError where all are such, and
    where more requests fail than `exam.failed_rows`.
    """
    found: list[tuple[Generation | None, ...]] = [()] * len(requests)
    crowded, failures = [], []
    for number, answer in engine.answers(requests):
        n = requests[number].n
        if answer.failure is None:
            found[number] = answer.generations
        elif answer.failure.startswith(NO_ROOM):
            crowded.append(answer.failure)
            found[number] = (Generation("", "length", 0),) * n
        else:
            failures.append(answer.failure)
            found[number] = (None,) * n
    if crowded:
        message = (
            f"{exam.name}: {len(crowded)} of {len(requests)} prompts leave no room for an answer, "
            f"such as: {crowded[0]}; ask with fewer shots or a longer model"
        )
        if len(crowded) == len(requests):
            raise UserError(message)
        log.warning("%s", message)
    if len(failures) > exam.failed_rows:
        raise UserError(
            f"{exam.name}: {len(failures)} of {len(requests)} requests failed, such as: "
            f"{failures[0]}; all answers are kept, and the same command asks these again; or let "
            f"them count as wrong with evaluate.failed_rows={len(failures)}"
        )
    return found


def _by_likelihood(exam: Exam, questions: Sequence[Question], engine: Engine) -> list[Reply]:
    """The letter of the likeliest option, by its whole log-likelihood and by that of a byte."""
    options = [_options(exam, question) for question in questions]
    requests = [
        Request(question.prompt, 1, logprobs=True, continuation=text)
        for question, texts in zip(questions, options, strict=True)
        for text in texts
    ]
    found = iter(answers_in_order(exam, engine, requests))
    replies = []
    for texts in options:
        own = [next(found)[0] for _ in texts]
        totals = [_total(generation) for generation in own]
        a_byte = [total / len(t.encode()) for total, t in zip(totals, texts, strict=True)]
        letter = LETTERS[totals.index(max(totals))]
        facts = {
            "likelihoods": [None if total == -math.inf else total for total in totals],
            "letter": letter,
            "letter_by_byte": LETTERS[a_byte.index(max(a_byte))],
        }
        replies.append(Reply(letter, "stop", facts))
    return replies


def _total(generation: Generation | None) -> float:
    if generation is None or not generation.logprobs:
        return -math.inf
    return sum(generation.logprobs)


def _options(exam: Exam, question: Question) -> list[str]:
    choices = question.row.choices
    if len(choices) < 2:
        raise UserError(
            f"evaluate.benchmarks: {exam.name} is asked by likelihood, and its row "
            f"{question.row.id} has no options that can be told apart; ask it in another way"
        )
    if exam.way == "options":
        return [f" {choice}" for choice in choices]
    return [f" {letter}" for letter, _ in zip(LETTERS, choices, strict=False)]
