"""Response diversification: two more solutions of the seed, correct and different."""

import difflib
from collections.abc import Mapping
from typing import Literal

from megatron_math.synthesize.method_config import DiversificationConfig
from megatron_math.synthesize.prompts import Prompts
from megatron_math.synthesize.tags import Unusable, final_answer, first_word, read_tags
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

PROMPT = "diversification.ask"
RESPONSE = "Response"
SOLUTIONS = ("Solution 1", "Solution 2")
WORDS_COMPARED = 1000  # comparing takes the square of it


class Diversification:
    """One request a seed, two candidates; or the model refuses, which is a reject with reason."""

    prompt = PROMPT
    unique: Literal["problem", "both"] = "both"

    def __init__(
        self,
        config: DiversificationConfig,
        voices: Mapping[str, Voice],
        prompts: Prompts,
        checks: Checks,
        road_seed: int,
    ) -> None:
        self._most_alike = config.most_alike
        self._voice = voices["engine"]
        self._prompts = prompts
        self._checks = checks

    def work(self, seed: Seed) -> Work:
        prompt = self._prompts.render(PROMPT, problem=seed.problem, solution=seed.solution)
        ask = self._voice.ask(prompt, seed.id, "diversification")
        [answer] = yield [ask]
        try:
            raw = whole(answer).text
            if first_word(raw, RESPONSE, ("accept", "refuse")) == "refuse":
                reason = read_tags(raw, (RESPONSE, "Reason"))["Reason"]
                return Outcome(rejects=[Reject("refused by the model", reason, raw)])
            tags = read_tags(raw, (RESPONSE, *SOLUTIONS))
        except Unusable as fault:
            raw = answer.generations[0].text if answer.generations else ""
            return Outcome(rejects=[Reject(fault.reason, fault.detail, raw)])
        outcome = Outcome()
        earlier = [seed.solution] if seed.solution else []
        for number, name in enumerate(SOLUTIONS, start=1):
            solution = tags[name]
            different = not any(alike(solution, text) > self._most_alike for text in earlier)
            try:
                candidate = Candidate(seed.problem, solution, final_answer(solution), raw)
            except Unusable as fault:
                outcome.rejects.append(Reject(fault.reason, fault.detail, raw, {"number": number}))
                continue
            candidate.verdicts["different"] = different
            candidate.meta = {"number": number, "seed": ask.request.seed}
            outcome.candidates.append(candidate)
            earlier.append(solution)
        yield from side_by_side(
            [
                self._checks.work(candidate, seed.answer, f"{seed.id}/{candidate.meta['number']}")
                for candidate in outcome.candidates
            ]
        )
        return outcome


def alike(first: str, second: str) -> float:
    """Share of words that two texts have in the same order, from 0 to 1."""
    words = [text.casefold().split()[:WORDS_COMPARED] for text in (first, second)]
    return difflib.SequenceMatcher(None, words[0], words[1], autojunk=False).ratio()
