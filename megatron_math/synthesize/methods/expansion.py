"""Query expansion: a statement of the seed, two new problems with solutions, self-check of each."""

from collections.abc import Mapping
from typing import Literal

from megatron_math.synthesize.method_config import ExpansionConfig
from megatron_math.synthesize.prompts import Prompts
from megatron_math.synthesize.tags import Unusable, final_answer, one_of, read_tags
from megatron_math.synthesize.verdicts.asked import Checks
from megatron_math.synthesize.work import (
    Candidate,
    Outcome,
    Reject,
    Seed,
    Voice,
    Work,
    side_by_side,
    whole,
)

PROMPT = "expansion.ask"
PARTS = ("Problem", "Solution", "Check", "Reason")
TAGS = ("Statement", *(f"{part} {number}" for number in (1, 2) for part in PARTS))


class Expansion:
    """One request a seed, two candidates."""

    prompt = PROMPT
    unique: Literal["problem", "both"] = "problem"

    def __init__(
        self,
        config: ExpansionConfig,
        voices: Mapping[str, Voice],
        prompts: Prompts,
        checks: Checks,
        road_seed: int,
    ) -> None:
        self._voice = voices["engine"]
        self._prompts = prompts
        self._checks = checks

    def work(self, seed: Seed) -> Work:
        if seed.answer is None:
            return Outcome(rejects=[Reject("seed without an answer")])
        prompt = self._prompts.render(
            PROMPT, problem=seed.problem, solution=seed.solution, answer=seed.answer
        )
        ask = self._voice.ask(prompt, seed.id, "expansion")
        [answer] = yield [ask]
        try:
            raw = whole(answer).text
            tags = read_tags(raw, TAGS)
        except Unusable as fault:
            raw = answer.generations[0].text if answer.generations else ""
            return Outcome(rejects=[Reject(fault.reason, fault.detail, raw)])
        outcome = Outcome()
        for number in (1, 2):
            try:
                outcome.candidates.append(_candidate(seed, tags, number, raw, ask.request.seed))
            except Unusable as fault:
                about = {"number": number, "problem": tags[f"Problem {number}"]}
                outcome.rejects.append(Reject(fault.reason, fault.detail, raw, about))
        yield from side_by_side(
            [
                self._checks.work(candidate, None, f"{seed.id}/{candidate.meta['number']}")
                for candidate in outcome.candidates
            ]
        )
        return outcome


def _candidate(
    seed: Seed, tags: dict[str, str], number: int, raw: str, draw_seed: int | None
) -> Candidate:
    """One of the two new problems. Raises Unusable."""
    problem = tags[f"Problem {number}"]
    is_new = problem.casefold().split() != seed.problem.casefold().split()
    check = one_of(tags[f"Check {number}"], f"Check {number}", ("accept", "refuse"))
    solution = tags[f"Solution {number}"]
    meta = {
        "number": number,
        "seed": draw_seed,
        "statement": tags["Statement"],
        "reason": tags[f"Reason {number}"],
    }
    return Candidate(
        problem,
        solution,
        final_answer(solution),
        raw,
        verdicts={"self_check": check == "accept", "different": is_new},
        meta=meta,
    )
