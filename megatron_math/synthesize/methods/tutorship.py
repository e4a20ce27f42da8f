"""Tutorship amplification: a student tries; a teacher judges, finds the wrong step, goes on.

A record holds the attempt, the judgement and the correction; of right attempts a share is kept with
the judgement that they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from megatron_math.answers.equal import equal
from megatron_math.answers.extract import extract_answer
from megatron_math.answers.solution_steps import split_steps
from megatron_math.engine.interface import Answer
from megatron_math.synthesize.method_config import TutorshipConfig
from megatron_math.synthesize.methods.retrospective import number_steps
from megatron_math.synthesize.prompts import Prompts
from megatron_math.synthesize.tags import Unusable, final_answer, first_word, read_tags
from megatron_math.synthesize.verdicts.asked import Checks
from megatron_math.synthesize.work import (
    Asking,
    Candidate,
    Outcome,
    Reject,
    Seed,
    Voice,
    Work,
    share_of,
    side_by_side,
    whole,
)

PROMPT = "tutorship.judge"
STUDENT_PROMPT = "solve.problem"
WRONG_TAGS = ("Check", "Step", "Quote", "Error", "Correction")
RIGHT_TAGS = ("Check", "Reason")
LEAST_QUOTED = 0.5  # of a step: a teacher may leave out its beginning or its end


class Tutorship:
    """One candidate or reject for every attempt at a seed."""

    prompt = PROMPT
    unique: Literal["problem", "both"] = "both"

    def __init__(
        self,
        config: TutorshipConfig,
        voices: Mapping[str, Voice],
        prompts: Prompts,
        checks: Checks,
        road_seed: int,
    ) -> None:
        self._config = config
        self._student = voices.get("student")
        self._teacher = voices["teacher"]
        self._prompts = prompts
        self._checks = checks
        self._road_seed = road_seed

    def work(self, seed: Seed) -> Work:
        outcome = Outcome()
        attempts = list(seed.attempts)
        if self._student is not None:
            prompt = self._prompts.render(STUDENT_PROMPT, problem=seed.problem)
            ask = self._student.ask(prompt, seed.id, "attempt", n=self._config.attempts)
            [answer] = yield [ask]
            attempts = _attempts_in(answer, self._student.model, outcome)
        elif not attempts:
            outcome.rejects.append(Reject("seed without an attempt"))
        results = yield from side_by_side(
            [
                self._judge(seed, by, attempt, f"{seed.id}/{number}")
                for number, (by, attempt) in enumerate(attempts, start=1)
            ]
        )
        for result in results:
            if isinstance(result, Reject):
                outcome.rejects.append(result)
            else:
                outcome.candidates.append(result)
        return outcome

    def _judge(self, seed: Seed, by: str, attempt: str, item: str) -> Asking["Candidate | Reject"]:
        steps = split_steps(attempt)
        about: dict[str, Any] = {"attempt_by": by}
        if not any(step.strip() for step in steps):
            return Reject("empty attempt", about=about)
        found = extract_answer(attempt).answer
        right = None if seed.answer is None else equal(found, seed.answer).correct
        wanted = share_of(self._road_seed, item, "right") < self._config.judged_correct
        if right and not wanted:
            return Reject("right attempt outside the share", about=about)
        known = seed.answer if self._config.teacher_sees_answer else None
        prompt = self._prompts.render(
            PROMPT, problem=seed.problem, steps=number_steps(steps), answer=known
        )
        ask = self._teacher.ask(prompt, item, "judge")
        [answer] = yield [ask]
        raw = answer.generations[0].text if answer.generations else ""
        about |= {"attempt": attempt, "attempt_right": right}
        try:
            text = whole(answer).text
            if first_word(text, "Check", ("correct", "wrong")) == "correct":
                if right is None and not wanted:
                    return Reject("right attempt outside the share", raw=raw, about=about)
                candidate = _agreed(seed, attempt, found, text)
                says_right = True
            else:
                candidate = _corrected(seed, attempt, steps, text)
                says_right = False
        except Unusable as fault:
            return Reject(fault.reason, fault.detail, raw, about)
        candidate.raw = raw
        candidate.verdicts["judgement"] = None if right is None else says_right == right
        candidate.meta |= {"attempt_by": by, "attempt_right": right, "seed": ask.request.seed}
        yield from self._checks.work(candidate, seed.answer, item)
        return candidate


def _attempts_in(answer: Answer, by: str, outcome: Outcome) -> list[tuple[str, str]]:
    """The attempts of a student; those that were cut off become rejects of `outcome`."""
    if answer.failure is not None:
        outcome.rejects.append(Reject("no answer", answer.failure))
    attempts = []
    for generation in answer.generations:
        if generation.finish == "length":
            reject = Reject("attempt cut off", raw=generation.text, about={"attempt_by": by})
            outcome.rejects.append(reject)
        else:
            attempts.append((by, generation.text.strip()))
    return attempts


def _agreed(seed: Seed, attempt: str, found: str | None, text: str) -> Candidate:
    """A right attempt with the judgement that it is. Raises Unusable."""
    tags = read_tags(text, RIGHT_TAGS)
    if found is None:
        raise Unusable("no final answer", attempt[-80:])
    solution = f"{attempt}\n\nCheck: correct\n{tags['Reason']}"
    return Candidate(
        seed.problem, solution, found, checked=attempt, meta={"check": "correct", "step": None}
    )


def _corrected(seed: Seed, attempt: str, steps: Sequence[str], text: str) -> Candidate:
    """A wrong attempt with its wrong step, and the solution from there on. Raises Unusable."""
    tags = read_tags(text, WRONG_TAGS)
    number = tags["Step"].strip(" []*.")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= len(steps):
        raise Unusable("'Step:' is no step of the attempt", tags["Step"][:80])
    step = steps[int(number) - 1].strip()
    if not _is_quote(tags["Quote"], step):
        raise Unusable("the quote is not the step", tags["Quote"][:80])
    correction = tags["Correction"]
    solution = (
        f"{attempt}\n\nCheck: wrong\nStep {number}: {step}\n"
        f"Error: {tags['Error']}\nCorrection:\n{correction}"
    )
    return Candidate(
        seed.problem,
        solution,
        final_answer(correction),
        checked=correction,
        meta={"check": "wrong", "step": int(number)},
    )


def _is_quote(quote: str, step: str) -> bool:
    """Whether `quote` is the step, or one piece of it that is at least half of it."""
    said, there = (" ".join(text.split()).strip("\"'“”‘’「」`*.。 ") for text in (quote, step))
    return bool(said) and said in there and len(said) >= LEAST_QUOTED * len(there)
